"""A guest agent's channel over FIFOs: one client at a time, in turn, whatever becomes of the one before."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kvmctl.guest.wire import Wire
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.agentline import FifoLine
from kvmctl.runtime.fifos import Fifos

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.fifos import Fifos
assert Fifos(MachinePaths("web", sys.argv[1], sys.argv[1])).try_turn()
print(flush=True)
sys.stdin.read()
"""


class Ends:
    """QEMU's ends: each of the FIFOs open in both directions, as its pipe chardev has them."""

    def __init__(self, paths: MachinePaths) -> None:
        for name in ("in", "out"):
            os.mkfifo(f"{paths.agent_fifos}.{name}", 0o600)
        self.reads = os.open(f"{paths.agent_fifos}.in", os.O_RDWR)
        self.writes = os.open(f"{paths.agent_fifos}.out", os.O_RDWR)

    def close(self) -> None:
        for descriptor in (self.reads, self.writes):
            if descriptor >= 0:
                os.close(descriptor)
        self.reads = self.writes = -1


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    return MachinePaths("web", str(tmp_path), str(tmp_path))


@pytest.fixture
def ends(paths: MachinePaths) -> Iterator[Ends]:
    with closing(Ends(paths)) as ends:
        yield ends


async def test_lines_go_both_ways(paths: MachinePaths, ends: Ends) -> None:
    with closing(Wire(FifoLine(paths))) as wire:
        await wire.wait_for_turn()
        await wire.send(b"question\n")
        assert os.read(ends.reads, 100) == b"question\n"
        os.write(ends.writes, b"ans")
        reading = asyncio.ensure_future(wire.read_line(limit=100))
        await asyncio.sleep(0)
        os.write(ends.writes, b"wer\n")
        assert await reading == b"answer"


async def test_one_client_has_it_and_the_next_when_that_leaves(paths: MachinePaths, ends: Ends) -> None:
    with closing(FifoLine(paths)) as first, closing(FifoLine(paths)) as second:
        await first.wait_for_turn()
        waiting = asyncio.ensure_future(second.wait_for_turn())
        await until_next_is_taken(paths)
        assert not waiting.done()
        first.close()
        async with asyncio.timeout(10):
            await waiting


async def until_next_is_taken(paths: MachinePaths) -> None:
    """Until somebody waits to be next, so that the third in line is told apart from the second."""
    with closing(FifoLine(paths)) as asked:
        while asked.is_next_free():
            await asyncio.sleep(0)


async def test_who_gives_it_back_and_wants_it_again_does_not_overtake_who_waits(
    paths: MachinePaths, ends: Ends
) -> None:
    with closing(FifoLine(paths)) as first, closing(FifoLine(paths)) as second, closing(FifoLine(paths)) as again:
        await first.wait_for_turn()
        waiting = asyncio.ensure_future(second.wait_for_turn())
        await until_next_is_taken(paths)
        first.close()
        assert not again.try_turn()
        async with asyncio.timeout(10):
            await waiting
            second.close()
            await again.wait_for_turn()


async def test_a_holder_that_is_killed_gives_it_to_who_waits(paths: MachinePaths, ends: Ends) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, paths.run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        with closing(FifoLine(paths)) as line:
            waiting = asyncio.ensure_future(line.wait_for_turn())
            await until_next_is_taken(paths)
            assert not waiting.done()
            holder.kill()
            async with asyncio.timeout(10):
                await waiting
    finally:
        holder.kill()
        holder.communicate()


async def test_who_stops_waiting_is_in_nobodys_way(paths: MachinePaths, ends: Ends) -> None:
    with closing(FifoLine(paths)) as first, closing(FifoLine(paths)) as third:
        await first.wait_for_turn()
        second = FifoLine(paths)
        waiting = asyncio.ensure_future(second.wait_for_turn())
        await until_next_is_taken(paths)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        second.close()
        first.close()
        async with asyncio.timeout(10):
            await third.wait_for_turn()


async def test_the_end_of_qemu_ends_a_wait_for_a_line(paths: MachinePaths, ends: Ends) -> None:
    with closing(Wire(FifoLine(paths))) as wire:
        await wire.wait_for_turn()
        reading = asyncio.ensure_future(wire.read_line(limit=100))
        await asyncio.sleep(0)
        ends.close()
        with pytest.raises(EOFError):
            async with asyncio.timeout(10):
                await reading


def test_fifos_that_qemu_has_let_go_of_can_not_be_opened(paths: MachinePaths, ends: Ends) -> None:
    ends.close()
    with pytest.raises(OSError, match="No such device"):
        Fifos(paths)


async def test_a_channel_that_is_full_is_waited_for(paths: MachinePaths, ends: Ends) -> None:
    data = bytes(1 << 20)
    with closing(Wire(FifoLine(paths))) as wire:
        await wire.wait_for_turn()
        sending = asyncio.ensure_future(wire.send(data))
        came = 0
        while came < len(data):
            came += len(await asyncio.to_thread(os.read, ends.reads, 65536))
        await sending
