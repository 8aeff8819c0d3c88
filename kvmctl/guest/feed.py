"""A command's input, on its way into a FIFO of the guest.

The agent writes to the FIFO without waiting, so what does not fit is refused; and a write of up to PIPE_BUF bytes is
taken whole or not at all (pipe(7)). So input goes in pieces of that size, each handed over until it is taken: nothing
is lost, nothing comes twice, and a command that does not read holds its sender back. Faster than starting a ``cat`` for
every piece, and it needs no process in the guest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import Final

from kvmctl.errors import AgentError
from kvmctl.guest.files import File, open_file
from kvmctl.guest.turn import Turn

_PIECE: Final = 4096
"""Linux's PIPE_BUF."""
_BURST: Final = 16
"""Pieces in a row, which is what a pipe holds, before output is looked at again."""
_READY_MAX: Final = 1 << 20
"""Bytes that may wait here; the source is not asked for more until there is room."""


class Feed:
    """What `source` gives, delivered to `file` turn by turn; the end of it closes the file."""

    def __init__(self, source: AsyncIterable[bytes], file: File, *, path: str, wake: asyncio.Event) -> None:
        self._source = source
        self._file: File | None = file
        self._path = path
        self._ready = bytearray()
        self._room = asyncio.Event()
        self._wake = wake
        self._at_end = False

    async def collect(self) -> None:
        """Take in all of the source, as there is room for it."""
        try:
            async for piece in self._source:
                self._ready += piece
                self._wake.set()
                while len(self._ready) >= _READY_MAX:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._at_end = True
            self._wake.set()

    async def deliver(self, turn: Turn) -> bool:
        """Hand over what there is and what the command takes; whether that was anything."""
        if self._file is None:
            return False
        has_moved = False
        for _ in range(_BURST):
            piece = bytes(self._ready[:_PIECE])
            if not piece or not await self._write(turn, self._file, piece):
                break
            del self._ready[: len(piece)]
            self._room.set()
            has_moved = True
        if self._at_end and not self._ready and await self._has_reader(turn):
            await self.close(turn)
            return True
        return has_moved

    async def _has_reader(self, turn: Turn) -> bool:
        """Whether the command has the FIFO open: the shell that becomes it takes its name away then.

        What is in a FIFO that nobody has open is gone, and who opens it afterwards waits for ever.
        """
        try:
            again = await open_file(turn, self._path, "r+")
        except AgentError:
            return True
        await again.close(turn)
        return False

    async def close(self, turn: Turn) -> None:
        """The command has read all that there is, or ended: let the agent forget the file."""
        if self._file is not None:
            file, self._file = self._file, None
            await file.close(turn)

    async def _write(self, turn: Turn, file: File, piece: bytes) -> bool:
        try:
            await file.write(turn, piece)
            await file.flush(turn)
        except AgentError as error:
            if not error.error_class:
                raise
            # Full. The C library under the agent has dropped the piece and remembers an error, which it would take for
            # the next one's: a write of nothing makes it forget.
            with suppress(AgentError):
                await file.write(turn, b"")
            return False
        return True
