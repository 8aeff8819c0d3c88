"""Copying files: whole or not at all, through a port that a guest may say anything on, and by the agent's file calls.

The scripts of the guest's end run on this host here, by the fake agent and by QEMU's own; with a real port they run in
tests/cli/test_cp.py.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import stat
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kvmctl.errors import AgentError, CopyFailed, KvmctlError, NotFound
from kvmctl.guest import port as guest_port
from kvmctl.guest.agent import Agent
from kvmctl.guest.copy import copy_in, copy_out
from kvmctl.testing.fakeagent import Channel, Command, FakeAgent, Refusal

from .local_agent import LocalCommands

DATA = bytes(range(256)) * 1000


def make_tree(path: Path) -> Path:
    (path / "a b/deep").mkdir(parents=True)
    (path / "a b/file").write_bytes(DATA)
    (path / "a b/file").chmod(0o640)
    os.utime(path / "a b/file", (10**9, 10**9))
    (path / "a b/link").symlink_to("../nowhere")
    (path / "empty").touch()
    return path


def listing(path: Path) -> dict[str, tuple[int, bytes | str]]:
    """Modes, and contents or targets, of everything below `path`."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for item in sorted(path.rglob("*")):
        content = os.readlink(item) if item.is_symlink() else item.read_bytes() if item.is_file() else b""
        found[str(item.relative_to(path))] = stat.S_IMODE(item.lstat().st_mode), content
    return found


def strays(*places: Path) -> list[Path]:
    return [item for place in (*places, Path("/var/tmp"), Path("/tmp")) for item in place.glob(".kvmctl-*")]


# -- by the agent's file calls


@pytest.mark.parametrize("direction", [copy_in, copy_out])
async def test_file_comes_with_its_mode_and_time(agent: Agent, tmp_path: Path, direction: Any) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(DATA)
    source.chmod(0o751)
    os.utime(source, (10**9, 10**9))
    progress: list[tuple[int, int | None]] = []
    copied = await direction(agent, str(source), str(target), on_progress=lambda *news: progress.append(news))
    assert target.read_bytes() == DATA
    assert (stat.S_IMODE(target.stat().st_mode), target.stat().st_mtime) == (0o751, 10**9)
    assert (copied.size, copied.through, copied.skipped) == (len(DATA), "agent", ())
    assert progress[-1] == (len(DATA), len(DATA))
    assert strays(tmp_path) == []


@pytest.mark.parametrize("direction", [copy_in, copy_out])
async def test_directory_comes_whole_with_its_modes_and_links(agent: Agent, tmp_path: Path, direction: Any) -> None:
    source = make_tree(tmp_path / "source")
    await direction(agent, str(source), str(tmp_path / "target"))
    assert listing(tmp_path / "target") == listing(source)
    assert strays(tmp_path) == []


@pytest.mark.parametrize("direction", [copy_in, copy_out])
async def test_into_a_directory_it_goes_under_its_own_name_and_merges_with_what_is_there(
    agent: Agent, tmp_path: Path, direction: Any
) -> None:
    source = make_tree(tmp_path / "source")
    there = tmp_path / "place/source"
    (there / "a b").mkdir(parents=True)
    (there / "a b/file").write_text("old")
    (there / "a b/other").write_text("stays")
    await direction(agent, str(source), str(tmp_path / "place"))
    assert (there / "a b/other").read_text() == "stays"
    assert {name: item for name, item in listing(there).items() if "other" not in name} == listing(source)
    await direction(agent, str(source / "empty"), f"{tmp_path}/place/")
    assert (tmp_path / "place/empty").read_bytes() == b""
    assert strays(tmp_path, tmp_path / "place") == []


@pytest.mark.parametrize("direction", [copy_in, copy_out])
@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("missing", "target", "there is no '.*missing'"),
        ("file", "missing/", "there is no directory '.*missing/'"),
        ("file", "missing/target", "there is no directory '.*missing/?'"),
        ("file", "place", "place/file' is a directory"),
        ("tree", "place", "place/tree' is there, and no directory"),
        ("merge", "place", "place/merge/sub' is there, and no directory"),
        ("turned", "place", "place/turned/sub' is a directory"),
    ],
)
async def test_what_is_in_the_way_or_missing_is_said_and_nothing_is_touched(
    agent: Agent, tmp_path: Path, direction: Any, source: str, target: str, words: str
) -> None:
    place = tmp_path / "work"  # beside it, the agent keeps notes
    for name in ("tree", "merge/sub", "turned", "place/file", "place/merge", "place/turned/sub"):
        (place / name).mkdir(parents=True)
    for name in ("file", "place/tree", "place/merge/sub", "turned/sub"):
        (place / name).write_text("old")
    before = listing(place)
    with pytest.raises((CopyFailed, NotFound), match=words):
        await direction(agent, f"{place}/{source}", f"{place}/{target}")
    assert listing(place) == before
    assert strays(place, place / "place") == []


@pytest.mark.parametrize("direction", [copy_in, copy_out])
async def test_a_link_is_gone_through_at_the_top(agent: Agent, tmp_path: Path, direction: Any) -> None:
    (tmp_path / "file").write_bytes(DATA)
    (tmp_path / "link").symlink_to("file")
    await direction(agent, str(tmp_path / "link"), str(tmp_path / "target"))
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "target").read_bytes() == DATA


async def test_a_link_that_a_guest_has_planted_is_not_written_through(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "place/tree").mkdir(parents=True)
    (tmp_path / "place/tree/sub").symlink_to(tmp_path / "outside")
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/evil").write_text("x")
    with pytest.raises(CopyFailed, match="is there, and no directory"):
        await copy_out(agent, str(tmp_path / "tree"), str(tmp_path / "place"))
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("direction", [copy_in, copy_out])
async def test_a_device_is_no_file(agent: Agent, tmp_path: Path, direction: Any) -> None:
    with pytest.raises(CopyFailed, match="neither a file nor a directory"):
        await direction(agent, "/dev/null", str(tmp_path / "x"))


async def test_a_file_that_does_not_know_its_size_comes_whole(agent: Agent, tmp_path: Path) -> None:
    await copy_out(agent, "/proc/self/limits", str(tmp_path / "limits"))
    assert b"Max open files" in (tmp_path / "limits").read_bytes()


@pytest.mark.parametrize("path", ["", "a\0b"])
async def test_a_path_that_no_guest_can_have_is_refused(agent: Agent, tmp_path: Path, path: str) -> None:
    with pytest.raises(CopyFailed, match="can't be a path"):
        await copy_out(agent, path, str(tmp_path))


async def test_a_full_disk_of_the_guest_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    def full(_: dict[str, Any]) -> object:
        raise Refusal("GenericError", "failed to write to file: No space left on device")

    (tmp_path / "file").write_bytes(DATA)
    commands = LocalCommands()
    async with FakeAgent({**commands.table(), "guest-file-write": full}) as fake:
        with pytest.raises(CopyFailed, match=r"into the guest: .*No space left on device"):
            await copy_in(Agent(fake.connect), str(tmp_path / "file"), str(tmp_path / "target"))
    commands.clear()
    assert not (tmp_path / "target").exists()
    assert strays(tmp_path) == []


async def test_an_agent_that_leaves_in_the_middle_leaves_nothing_here(tmp_path: Path) -> None:
    async def leave(fake: FakeAgent, channel: Channel) -> None:
        while line := await channel.request():
            if b"guest-file-read" in line:
                return
            await fake.answer(channel, line.lstrip(b"\xff"))

    (tmp_path / "file").write_bytes(DATA)
    commands = LocalCommands()
    async with FakeAgent(commands.table(), behaviour=leave) as fake:
        with pytest.raises(AgentError, match="channel was closed"):
            await copy_out(Agent(fake.connect), str(tmp_path / "file"), str(tmp_path / "target"))
    commands.clear()
    assert not (tmp_path / "target").exists()
    assert strays(tmp_path) == []


async def test_a_file_that_does_not_end_is_not_taken_for_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    commands = LocalCommands()
    table: dict[str, Command] = {
        **commands.table(),
        "guest-file-read": lambda _: {"count": 48 << 10, "buf-b64": "AAAA" * (16 << 10), "eof": False},
    }
    async with FakeAgent(table) as fake:
        with pytest.raises(AgentError, match="does not end where it was said to"):
            await copy_out(Agent(fake.connect), str(tmp_path / "file"), str(tmp_path / "target"))
    commands.clear()
    assert not (tmp_path / "target").exists()


# -- through a port, with a guest that misbehaves on it

Guest = Callable[["Far"], Awaitable[None]]


class Far:
    """The guest's end of the port, as a test plays it."""

    def __init__(self, stream: socket.socket, mark: str) -> None:
        stream.setblocking(False)
        self._stream = stream
        self.mark = mark.encode()

    async def say(self, words: str) -> None:
        await self.send(b"\n%s %s\n" % (self.mark, words.encode()))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._stream, data)

    async def take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = await asyncio.get_running_loop().sock_recv(self._stream, count - len(data))
            assert piece
            data += piece
        return data

    def leave(self) -> None:
        self._stream.close()


class Played:
    """An agent whose one script is played by `guest`; `end` is its status once that has returned."""

    def __init__(self, guest: Guest, **end: object) -> None:
        self._guest = guest
        self._end = {"exited": True, "exitcode": 0} | end
        self._ours, self._theirs = socket.socketpair()
        self._task: asyncio.Future[None] | None = None

    def connect(self) -> socket.socket:
        return self._ours

    def table(self) -> dict[str, Command]:
        return {"guest-exec": self._exec, "guest-exec-status": self._status}

    def _exec(self, arguments: dict[str, Any]) -> object:
        if self._task is None:
            mark = arguments["arg"][3]
            self._task = asyncio.ensure_future(self._guest(Far(self._theirs, mark)))
        return {"pid": 1}

    def _status(self, _: dict[str, Any]) -> object:
        assert self._task is not None
        return self._end if self._task.done() else {"exited": False}

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._ours.close()
        self._theirs.close()


async def copy(direction: Any, guest: Guest, source: Path, target: Path, **end: object) -> Any:
    played, failure = Played(guest, **end), None
    async with FakeAgent(played.table()) as fake, asyncio.timeout(30):
        try:
            return await direction(Agent(fake.connect), str(source), str(target), connect=played.connect)
        except KvmctlError as error:  # which the fake's tasks would make a group of
            failure = error
        finally:
            played.close()
    assert failure is not None
    raise failure


async def test_what_an_earlier_copy_left_on_the_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    async def guest(far: Far) -> None:
        other = b"kvmctl-" + b"0" * 32
        await far.send(b"\n%s file 644 0 3\nold\n%s end 0\n" % (other, other) + bytes(100_000))
        await far.say("file 600 7 3")
        await far.send(b"new")
        await far.say("end 0")

    copied = await copy(copy_out, guest, Path("/x"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert (copied.size, copied.through, (tmp_path / "x").stat().st_mtime) == (3, "port", 7)


@pytest.mark.parametrize("grown", [b"", b"x", DATA])
async def test_a_file_comes_as_long_as_it_was_at_its_end(tmp_path: Path, grown: bytes) -> None:
    async def guest(far: Far) -> None:
        await far.say("file 644 0 1000")
        for start in range(0, len(grown), 1000):
            await far.send(grown[start : start + 1000])
            await asyncio.sleep(0)
        for byte in b"\n%s end 0\n" % far.mark:
            await far.send(bytes([byte]))
            await asyncio.sleep(0)

    await copy(copy_out, guest, Path("/x"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == grown


async def garbage(far: Far) -> None:
    while True:
        await far.send(os.urandom(65536))


async def long_line(far: Far) -> None:
    await far.send(b"\n%s " % far.mark + b"A" * 100_000)


async def nonsense_words(far: Far) -> None:
    await far.say("file 9x9 -- ..")


async def unknown_words(far: Far) -> None:
    await far.say("rm -rf /")


async def no_words(far: Far) -> None:
    await far.say("")


async def leave_at_once(far: Far) -> None:
    far.leave()


async def leave_in_the_middle(far: Far) -> None:
    await far.say("file 644 0 1000")
    await far.send(b"half")
    far.leave()


async def stop_in_the_middle(far: Far) -> None:
    await far.say("file 644 0 1000")
    await far.send(b"half")


async def broken_archive(far: Far) -> None:
    await far.say("tree 755 0")
    await far.send(b"no archive" * 1000)
    await far.say("end 0")


async def cut_archive(far: Far) -> None:
    await far.say("tree 755 0")
    await far.say("end 0")


async def archive_that_breaks_out(far: Far) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    await far.say("tree 755 0")
    await far.send(out.getvalue())
    await far.say("end 0")


async def too_large(far: Far) -> None:
    await far.say(f"file 644 0 {1 << 60}")


@pytest.mark.parametrize(
    ("guest", "words"),
    [
        (garbage, "something else than what was asked for"),
        (long_line, "talks nonsense"),
        (nonsense_words, "talks nonsense"),
        (unknown_words, "talks nonsense"),
        (no_words, "talks nonsense"),
        (leave_at_once, "port was closed in the middle"),
        (leave_in_the_middle, "port was closed in the middle"),
        (stop_in_the_middle, "it ended there, and did not say why"),
        (broken_archive, "no archive"),
        (cut_archive, "ends in the middle"),
        (archive_that_breaks_out, "leads out of what was asked for"),
        (too_large, "would take 1152921504606846976 bytes"),
    ],
)
async def test_a_guest_that_misbehaves_on_the_port_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest: Guest, words: str
) -> None:
    monkeypatch.setattr(guest_port, "_STALE_MAX", 1 << 20)
    (tmp_path / "place").mkdir()
    with pytest.raises(KvmctlError, match=words):
        await copy(copy_out, guest, Path("/x"), tmp_path / "place/x")
    assert [path.name for path in tmp_path.rglob("*")] == ["place"]


async def test_what_the_guest_complains_of_is_quoted_without_what_drives_a_terminal(tmp_path: Path) -> None:
    async def guest(far: Far) -> None:
        await far.say("file 644 0 1000")
        await far.say("end 1")

    said = "Y2F0OiAbWzMxbWV2aWw6IEkvTyBlcnJvcgo="
    with pytest.raises(CopyFailed, match=r"out of the guest: cat: �\[31mevil: I/O error") as caught:
        await copy(copy_out, guest, Path("/x"), tmp_path / "x", **{"exitcode": 1, "err-data": said})
    assert "\x1b" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


async def test_a_directory_that_changes_meanwhile_is_copied_all_the_same(tmp_path: Path) -> None:
    async def guest(far: Far) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("./a"))
        await far.say("tree 755 0")
        await far.send(out.getvalue())
        await far.say("end 1")

    said = "dGFyOiAuL2E6IGZpbGUgY2hhbmdlZCBhcyB3ZSByZWFkIGl0Cg=="
    await copy(copy_out, guest, Path("/x"), tmp_path / "x", **{"exitcode": 1, "err-data": said})
    assert (tmp_path / "x/a").exists()


async def test_a_guest_whose_disk_is_full_ends_the_sending_at_once(tmp_path: Path) -> None:
    async def guest(far: Far) -> None:
        await far.say("ready")
        await far.take(1000)
        await far.say("end 1")

    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 30)
    said = "ZGQ6IE5vIHNwYWNlIGxlZnQgb24gZGV2aWNlCg=="
    with pytest.raises(CopyFailed, match="into the guest: dd: No space left on device"):
        await copy(copy_in, guest, tmp_path / "file", Path("/x"), **{"exitcode": 1, "err-data": said})


async def test_what_is_sent_is_the_file_and_nothing_else(tmp_path: Path) -> None:
    came: list[bytes] = []

    async def guest(far: Far) -> None:
        await far.say("ready")
        came.append(await far.take(len(DATA)))
        await far.say("end 0")

    (tmp_path / "file").write_bytes(DATA)
    await copy(copy_in, guest, tmp_path / "file", Path("/x"))
    assert came == [DATA]


async def test_a_guest_that_leaves_while_it_is_sent_to_is_an_error(tmp_path: Path) -> None:
    async def guest(far: Far) -> None:
        await far.say("ready")
        await far.take(1000)
        far.leave()

    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(AgentError, match="closed in the middle of a copy"):
        await copy(copy_in, guest, tmp_path / "file", Path("/x"))


async def test_a_guest_that_has_no_port_is_asked_by_its_agent(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    commands = LocalCommands()
    ours, theirs = socket.socketpair()
    async with FakeAgent(commands.table()) as fake:  # runs the scripts on this host, which has no such port
        copied = await copy_in(
            Agent(fake.connect), str(tmp_path / "file"), str(tmp_path / "target"), connect=lambda: ours
        )
    theirs.close()
    commands.clear()
    assert copied.through == "agent"
    assert (tmp_path / "target").read_bytes() == DATA
