"""What has come from a guest and was not yet looked at. No I/O: whoever reads adds to it."""

from __future__ import annotations

from typing import Final

CHUNK: Final = 65536
"""Bytes that are read at once."""

_SKIPPED_MAX: Final = 4096


class LineTooLong(Exception):
    """What was looked for did not come within its limit."""


class TimeIsUp(Exception):
    """What was waited for did not come in time."""


class Received:
    """Bytes in the order they came."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self.skipped = b""
        """The end of what was dropped."""

    def add(self, data: bytes) -> None:
        """More has come."""
        self._buffer += data

    def take_line(self, *, limit: int) -> bytes | None:
        """The next line without its end; None where it is not all there. Raises LineTooLong past `limit` bytes."""
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._buffer)
            if self._scanned > limit:
                raise LineTooLong
            return None
        line = bytes(memoryview(self._buffer)[:end])
        self._drop(end + 1)
        return line

    def take(self, count: int) -> bytes | None:
        """The next `count` bytes; None where they are not all there."""
        if len(self._buffer) < count:
            return None
        found = bytes(memoryview(self._buffer)[:count])
        self._drop(count)
        return found

    def skip_past(self, mark: bytes) -> tuple[int, bool]:
        """Drop everything up to and with the next `mark`, one byte; how much that was, and whether it was there."""
        at = self._buffer.find(mark)
        dropped = len(self._buffer) if at < 0 else at + 1
        self.skipped = (self.skipped + bytes(self._buffer[max(0, dropped - _SKIPPED_MAX) : dropped]))[-_SKIPPED_MAX:]
        self._drop(dropped)
        return dropped, at >= 0

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._scanned = 0


class Lines:
    """Lines from what comes, each of bounded length; an edge says how more of it is got."""

    def __init__(self) -> None:
        self._received = Received()

    @property
    def skipped(self) -> bytes:
        """The end of what was dropped."""
        return self._received.skipped

    async def read_line(self, *, limit: int) -> bytes:
        """The next line without its end. Raises LineTooLong past `limit` bytes, EOFError, OSError."""
        while (line := self._received.take_line(limit=limit)) is None:
            self._received.add(await self._read())
        return line

    async def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes. Raises EOFError, OSError."""
        while (found := self._received.take(count)) is None:
            self._received.add(await self._read())
        return found

    async def skip_past(self, mark: bytes, *, limit: int) -> int:
        """Drop everything up to and with the next `mark`, one byte; returns how much.

        Raises LineTooLong where it does not come within `limit` bytes, EOFError, OSError.
        """
        dropped = 0
        while True:
            count, is_found = self._received.skip_past(mark)
            dropped += count
            if is_found:
                return dropped
            if dropped > limit:
                raise LineTooLong
            self._received.add(await self._read())

    async def _read(self) -> bytes:
        """What has come, waited for; not empty. Raises EOFError, OSError."""
        raise NotImplementedError
