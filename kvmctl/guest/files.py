"""``guest-file-*``: files of the guest, opened by its agent."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, Literal

from kvmctl.errors import AgentError
from kvmctl.guest.reply import take, take_bytes
from kvmctl.guest.turn import Turn

CHUNK: Final = 65536
"""Bytes read or written at once; more gains little (measured: 48 to 64 KiB is near the top)."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that the agent has open, by its handle."""

    handle: int

    async def read(self, turn: Turn, count: int = CHUNK) -> tuple[bytes, bool]:
        """At most `count` bytes from where it stands, and whether that is all there is by now."""
        reply = await turn.execute("guest-file-read", {"handle": self.handle, "count": count})
        data = take_bytes(reply, "buf-b64")
        if len(data) > count:
            raise AgentError(f"the guest agent read {len(data)} bytes where {count} were asked for")
        return data, take(reply, "eof", bool) or not data

    async def write(self, turn: Turn, data: bytes) -> None:
        """Write all of `data` where it stands. Raises AgentError, which has a class where the guest could not."""
        arguments = {"handle": self.handle, "buf-b64": base64.b64encode(data).decode()}
        count = take(await turn.execute("guest-file-write", arguments), "count", int)
        if count != len(data):
            raise AgentError(f"the guest agent says that it wrote {count} of {len(data)} bytes")

    async def flush(self, turn: Turn) -> None:
        """Hand what was written to the guest's kernel."""
        await turn.execute("guest-file-flush", {"handle": self.handle})

    async def left(self, turn: Turn) -> int:
        """Bytes from where it stands to its present end."""
        here = await self._seek(turn, 0, "cur")
        end = await self._seek(turn, 0, "end")
        await self._seek(turn, here, "set")
        return end - here

    async def _seek(self, turn: Turn, offset: int, whence: str) -> int:
        arguments = {"handle": self.handle, "offset": offset, "whence": whence}
        return take(await turn.execute("guest-file-seek", arguments), "position", int)

    async def close(self, turn: Turn) -> None:
        """Let the agent forget the file."""
        await turn.execute("guest-file-close", {"handle": self.handle})


async def open_file(turn: Turn, path: str, mode: Literal["r", "w", "r+"] = "r") -> File:
    """The file at `path`, opened by the agent; never waited for, were it a FIFO. Raises AgentError."""
    handle = await turn.execute("guest-file-open", {"path": path, "mode": mode})
    return File(take({"handle": handle}, "handle", int))


async def read_file(turn: Turn, path: str, *, limit: int) -> bytes:
    """What is in a small file of the guest. Raises AgentError where it can't be read, or is longer than `limit`."""
    file = await open_file(turn, path)
    try:
        data, at_end = b"", False
        while not at_end:
            piece, at_end = await file.read(turn)
            data += piece
            if len(data) > limit:
                raise AgentError(f"{path!r} in the guest is longer than {limit} bytes")
    finally:
        await file.close(turn)
    return data
