"""Input on its way into a FIFO of the guest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from kvmctl.guest.agent import Agent, Connect
from kvmctl.guest.feed import Feed
from kvmctl.guest.files import open_file
from kvmctl.guest.turn import Turn


async def hello() -> AsyncIterator[bytes]:
    yield b"hello"


async def test_input_is_held_until_a_command_that_is_slow_to_start_has_opened_it(
    qemu_ga: Connect, tmp_path: Path
) -> None:
    fifo = tmp_path / "in"
    os.mkfifo(fifo)
    async with Turn(Agent(qemu_ga)) as turn:
        feed = Feed(hello(), await open_file(turn, str(fifo), "r+"), path=str(fifo), wake=asyncio.Event())
        await feed.collect()
        for _ in range(3):
            await feed.deliver(turn)
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fifo.unlink()
            assert await feed.deliver(turn)
            assert os.read(reader, 100) == b"hello"
            assert os.read(reader, 100) == b""  # its end
        finally:
            os.close(reader)
