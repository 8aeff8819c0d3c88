"""Following files that grow under one's hands, beside a process that ends when the test says so. No QEMU."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmctl.errors import KvmctlError, NotRunning
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import aside, history, observe
from kvmctl.runtime.events import ExitReason
from kvmctl.runtime.journal import Journal, Tail
from kvmctl.runtime.process import Process

from .scripts import run_script


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    for part in ("run", "state"):
        (tmp_path / part).mkdir()
    return MachinePaths("web", str(tmp_path / "run"), str(tmp_path / "state"))


class Stand(Process):
    """A process in QEMU's place, which ends when it is told to."""

    def end(self) -> None:
        self.popen.kill()
        self.popen.wait()

    popen: subprocess.Popen[bytes]


@pytest.fixture
def process() -> Iterator[Stand]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as popen:
        stand = Stand(popen.pid, os.pidfd_open(popen.pid))
        stand.popen = popen
        with stand:
            yield stand
        popen.kill()


def append(path: str, data: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(data)


async def said(paths: MachinePaths, process: Process, pattern: str, *pieces: bytes) -> str:
    """What a wait for `pattern` finds when `pieces` come one after the other, each read before the next is there."""
    waiting = asyncio.create_task(observe.wait_for_console(paths, process, pattern))
    for piece in pieces:
        append(paths.console_log, piece)
        for _ in range(10):
            await asyncio.sleep(0)
    return await waiting


async def test_a_pattern_is_found_across_pieces(paths: MachinePaths, process: Stand) -> None:
    assert await said(paths, process, r"^web login: ", b"Debian\r\nweb lo", b"gin", b": ") == "web login: "


async def test_a_character_cut_in_two_is_one_character(paths: MachinePaths, process: Stand) -> None:
    bereit = "bereit für Gäste".encode()
    assert await said(paths, process, "für Gäste$", bereit[:9], bereit[9:14], bereit[14:] + b"\n") == bereit.decode()


async def test_bytes_that_are_no_text_hide_nothing_beside_them(paths: MachinePaths, process: Stand) -> None:
    assert await said(paths, process, "READY", b"\xff\xc3", b"(\x80 RE", b"ADY\n") == "��(� READY"


async def test_a_line_that_never_ends_is_not_kept_for_ever(paths: MachinePaths, process: Stand) -> None:
    assert len(await said(paths, process, "READY", b"x" * (5 << 20), b"READY")) < 2 << 20


async def test_what_was_printed_just_before_the_end_is_seen(paths: MachinePaths, process: Stand) -> None:
    waiting = asyncio.create_task(observe.wait_for_console(paths, process, "last"))
    await asyncio.sleep(0)
    append(paths.console_log, b"last words")
    process.end()
    assert await waiting == "last words"


async def test_a_pattern_that_is_none_is_said_to_be(paths: MachinePaths, process: Stand) -> None:
    with pytest.raises(KvmctlError, match=r"'\(' is not a regular expression"):
        await observe.wait_for_console(paths, process, "(")


async def test_a_run_directory_that_is_gone_is_waited_on_for_the_end_alone(
    paths: MachinePaths, process: Stand, tmp_path: Path
) -> None:
    waiting = asyncio.create_task(observe.wait_for_event(paths, process, "STOP"))
    await asyncio.sleep(0)
    os.rename(paths.run, tmp_path / "trash")
    late = asyncio.create_task(observe.wait_for_console(paths, process, "READY"))
    await asyncio.sleep(0)
    process.end()
    for task in (waiting, late):
        with pytest.raises(NotRunning, match="ended before"):
            await task


async def test_an_event_of_the_next_run_is_not_this_ones(paths: MachinePaths, process: Stand) -> None:
    stop = b'{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "STOP"}\n'
    append(paths.journal, b'{"QMP": {}}\n')
    waiting = observe.wait_for_event(paths, process, "STOP")
    aside.set_aside(paths)
    append(paths.journal, b" " * 100 + stop)
    process.end()
    with pytest.raises(NotRunning):
        await waiting


def test_a_tail_gives_each_line_once_and_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Tail(str(path)) as tail:
        assert tail.lines() == []
        append(str(path), b"one\ntw")
        assert tail.lines() == ["one"]
        append(str(path), b"o\n\xff\n")
        assert tail.lines() == ["two", "�"]


def test_a_tail_reads_more_than_it_holds_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (3 << 20) + b"\n")
    with Tail(str(path)) as tail:
        assert max(len(piece) for piece in tail.pieces()) <= 1 << 20
    with Tail(str(path)) as tail:
        assert [len(line) for line in tail.lines()] == [3 << 20]


def test_history_holds_the_last_hundred_runs_whatever_it_held(paths: MachinePaths) -> None:
    Path(paths.history).write_bytes(b"\xff\n" + b"garbage\n" * 200)
    for _ in range(3):
        append(paths.journal, b"[[[\n")
        aside.forget(paths)
        aside.set_aside(paths)
        history.archive(paths)
    assert len(Path(paths.history).read_bytes().splitlines()) == 100
    end = history.read_last_exit(paths)
    assert end is not None
    assert end.reason is ExitReason.KILLED


def test_a_note_in_a_journal_that_has_lost_its_name_goes_nowhere(paths: MachinePaths) -> None:
    append(paths.journal, b"")
    with Journal(paths) as journal:
        aside.set_aside(paths)
        append(paths.journal, b"")
        journal.note("KVMCTL_EXIT", {"status": 0})
        assert [event.name for event in journal.events()] == ["KVMCTL_EXIT"]
    assert Path(paths.journal).read_bytes() == b""


def test_a_watch_that_the_kernel_refuses_is_said_with_the_limit_to_raise(tmp_path: Path) -> None:
    script = """
import resource
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.watch import Watch
paths = MachinePaths("web", sys.argv[1], sys.argv[1])
Watch(paths.run).close()  # the first one looks for the C library
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    Watch(paths.run)
except kvmctl.StateError as error:
    print(error)
"""
    assert "sysctl fs.inotify.max_user_instances" in run_script(script, str(tmp_path))
