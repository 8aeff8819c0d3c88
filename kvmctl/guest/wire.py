"""Lines on a stream socket, read with bounds: a guest may send anything, and as much of it as it likes."""

from __future__ import annotations

import asyncio
import socket

_CHUNK = 65536


class LineTooLong(Exception):
    """What was looked for did not come within its limit."""


class Wire:
    """One connection. It never holds more than a line's limit and one chunk; what is skipped is not kept at all."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        self._socket = connection
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def read_line(self, *, limit: int) -> bytes:
        """The next line without its end. Raises LineTooLong past `limit` bytes, EOFError, OSError."""
        scanned = 0
        while (end := self._buffer.find(b"\n", scanned)) < 0:
            scanned = len(self._buffer)
            if scanned > limit:
                raise LineTooLong
            await self._fill()
        line = bytes(memoryview(self._buffer)[:end])
        del self._buffer[: end + 1]
        return line

    async def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes. Raises EOFError, OSError."""
        while len(self._buffer) < count:
            await self._fill()
        found = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return found

    async def skip_past(self, mark: bytes, *, limit: int) -> int:
        """Drop everything up to and with the next `mark`, one byte; returns how much.

        Raises LineTooLong where it does not come within `limit` bytes, EOFError, OSError.
        """
        dropped = 0
        while (at := self._buffer.find(mark)) < 0:
            dropped += len(self._buffer)
            self._buffer.clear()
            if dropped > limit:
                raise LineTooLong
            await self._fill()
        del self._buffer[: at + 1]
        return dropped + at + 1

    async def _fill(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK)
        if not data:
            raise EOFError
        self._buffer += data
        # sock_recv doesn't give way while there is data: against a flood no deadline would ever be looked at.
        await asyncio.sleep(0)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
