"""What a killed client has left in a guest is undone by the next, and by nobody while its maker lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kvmctl import Roots
from kvmctl.errors import AgentError, Busy, CopyFailed, DeadlineExceeded, KvmctlError, StateError
from kvmctl.guest.agent import Agent
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.leftovers import check_not_frozen, settle
from kvmctl.runtime.records import FROZEN, busy, marked, record
from kvmctl.testing.fakeagent import Command, FakeAgent, Refusal

MAKER = """
import sys
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.records import record
with record(MachinePaths("web", sys.argv[1], sys.argv[1]), sys.argv[2]):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    return MachinePaths("web", str(tmp_path), str(tmp_path))


@pytest.fixture
def maker(paths: MachinePaths, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has put something on record, and lives."""
    argv = [sys.executable, "-c", MAKER, paths.run, getattr(request, "param", FROZEN)]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    yield process
    process.kill()
    process.communicate()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


class Guest:
    """A guest whose file systems can be thawed and whose commands ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.thawed = 0

    def table(self) -> dict[str, Command]:
        return {
            "guest-fsfreeze-thaw": self._thaw,
            "guest-exec": self._exec,
            "guest-exec-status": lambda _: {"exited": True, "exitcode": 0},
        }

    def _thaw(self, _: dict[str, Any]) -> object:
        self.thawed += 1
        return 1

    def _exec(self, arguments: dict[str, Any]) -> object:
        self.ended.append(arguments["arg"][-1])
        return {"pid": 1}


async def settled(paths: MachinePaths) -> Guest:
    guest = Guest()
    async with FakeAgent(guest.table()) as fake:
        await settle(paths, Agent(fake.connect))
        if not (guest.thawed or guest.ended):
            assert fake.requests == []  # nobody pays for what is not there
    return guest


async def test_nothing_on_record_asks_the_guest_nothing(paths: MachinePaths) -> None:
    await settled(paths)


async def test_what_a_killed_freezer_froze_is_thawed_by_the_next_and_once(
    paths: MachinePaths, maker: subprocess.Popen[bytes]
) -> None:
    assert (await settled(paths)).thawed == 0
    with pytest.raises(Busy, match=f"are frozen by process {maker.pid}") as caught:
        check_not_frozen(paths)
    assert caught.value.holder == maker.pid
    with pytest.raises(Busy, match="are frozen"), record(paths, FROZEN):
        pass
    kill(maker)
    check_not_frozen(paths)
    assert (await settled(paths)).thawed == 1
    assert (await settled(paths)).thawed == 0
    with record(paths, FROZEN):
        pass


@pytest.mark.parametrize("maker", ["kvmctl-0123"], indirect=True)
async def test_what_a_killed_client_started_is_ended_by_the_next(
    paths: MachinePaths, maker: subprocess.Popen[bytes]
) -> None:
    assert (await settled(paths)).ended == []
    kill(maker)
    assert (await settled(paths)).ended == ["kvmctl-0123"]
    assert (await settled(paths)).ended == []


async def test_what_was_undone_is_off_the_record(paths: MachinePaths) -> None:
    with record(paths, FROZEN) as mine:
        mine.undone()
    assert (await settled(paths)).thawed == 0
    assert os.listdir(paths.leftovers) == []


async def test_what_was_not_undone_stays_for_the_next(paths: MachinePaths) -> None:
    with record(paths, FROZEN):
        assert (await settled(paths)).thawed == 0
    assert (await settled(paths)).thawed == 1


@pytest.mark.parametrize("lost", [AgentError("the channel broke"), DeadlineExceeded("no answer")])
async def test_what_an_agent_that_was_lost_may_still_run_is_the_nexts_to_end(
    paths: MachinePaths, lost: KvmctlError
) -> None:
    with pytest.raises(KvmctlError), marked(paths) as mark:
        raise lost
    assert (await settled(paths)).ended == [mark]


@pytest.mark.parametrize("said", [None, CopyFailed("no space left")])
async def test_what_ended_by_itself_is_nobodys_to_end(paths: MachinePaths, said: KvmctlError | None) -> None:
    with suppress(CopyFailed), marked(paths):
        if said is not None:
            raise said
    assert (await settled(paths)).ended == []


async def test_a_guest_that_can_not_be_reached_keeps_it_on_record_and_one_that_refuses_does_not(
    paths: MachinePaths,
) -> None:
    with record(paths, FROZEN):
        pass

    def refuse(_: dict[str, Any]) -> object:
        raise Refusal("GenericError", "no")

    def gone() -> Any:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(AgentError, match="can't be reached"):
        await settle(paths, Agent(gone))
    assert os.listdir(paths.leftovers) == ["frozen.json"]
    async with FakeAgent({"guest-fsfreeze-thaw": refuse}) as fake:
        await settle(paths, Agent(fake.connect))
    assert os.listdir(paths.leftovers) == []


def test_a_record_that_can_not_be_made_is_a_state_error(paths: MachinePaths) -> None:
    Path(paths.leftovers).write_text("")
    with pytest.raises(StateError), record(paths, FROZEN):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "\xff"])
async def test_nonsense_in_a_record_is_a_record(paths: MachinePaths, content: str) -> None:
    os.mkdir(paths.leftovers)
    Path(paths.leftover(FROZEN)).write_bytes(content.encode("latin-1"))
    assert "are frozen" in str(busy(paths))
    assert (await settled(paths)).thawed == 1


def test_records_are_private(roots: Roots) -> None:
    paths = roots.machine("web")
    os.umask(previous := os.umask(0))
    try:
        with record(paths, FROZEN):
            assert os.stat(paths.leftovers).st_mode & 0o777 == 0o700
            assert os.stat(paths.leftover(FROZEN)).st_mode & 0o777 == 0o600
    finally:
        os.umask(previous)
