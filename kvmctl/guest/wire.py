"""Lines on a channel, read with bounds: a guest may send anything, and as much of it as it likes.

This is the edge in asyncio; `kvmctl.guest.blocking` is the one without.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from kvmctl.guest.received import CHUNK, Lines, TimeIsUp


class Line(Protocol):
    """A client's way through a channel: descriptors that don't block, which may be one and the same."""

    reader: int
    writer: int

    async def wait_for_turn(self) -> None:
        """Wait until nobody else has the channel, where that is not the channel's own affair. Raises OSError."""

    def close(self) -> None:
        """Hang up."""


class SocketLine:
    """A connected socket, whose other end serves one client after the other."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        self._socket = connection
        self.reader = self.writer = connection.fileno()

    async def wait_for_turn(self) -> None:
        """The backlog is the queue: the other end reads when it is our turn."""

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Wire(Lines):
    """One connection. It never holds more than a line's limit and one chunk; what is skipped is not kept at all."""

    def __init__(self, connection: socket.socket | Line) -> None:
        super().__init__()
        self._line: Line = SocketLine(connection) if isinstance(connection, socket.socket) else connection

    @asynccontextmanager
    async def within(self, seconds: float | None) -> AsyncIterator[None]:
        """Give what is awaited in this context `seconds`. Raises TimeIsUp."""
        try:
            async with asyncio.timeout(seconds) as scope:
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise TimeIsUp from None

    async def wait_for_turn(self) -> None:
        """Wait until the channel is ours. Raises OSError."""
        await self._line.wait_for_turn()

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError."""
        loop, left = asyncio.get_running_loop(), memoryview(data)
        while left:
            try:
                left = left[os.write(self._line.writer, left) :]
            except BlockingIOError:
                await _ready(self._line.writer, loop.add_writer, loop.remove_writer)

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            try:
                # Before it is waited for: a FIFO that nobody writes to any more says so to who reads, and not always
                # to who polls.
                data = os.read(self._line.reader, CHUNK)
                break
            except BlockingIOError:
                await _ready(self._line.reader, loop.add_reader, loop.remove_reader)
        if not data:
            raise EOFError
        # This doesn't give way while there is data: against a flood no deadline would ever be looked at.
        await asyncio.sleep(0)
        return data

    def close(self) -> None:
        """Hang up."""
        self._line.close()


async def _ready(
    descriptor: int, add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], object]
) -> None:
    """Wait until the event loop says that there is something to be done with `descriptor`."""
    ready = asyncio.Event()
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)
