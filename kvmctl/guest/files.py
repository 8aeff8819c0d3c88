"""``guest-file-*``: files of the guest, opened by its agent."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Final, Literal, NamedTuple

from kvmctl.errors import AgentError
from kvmctl.guest.reply import take, take_bytes
from kvmctl.guest.session import Request
from kvmctl.guest.talk import Talk

CHUNK: Final = 65536
"""Bytes read or written at once; more gains little (measured: 48 to 64 KiB is near the top)."""


class File(NamedTuple):
    """A file that the agent has open, by its handle."""

    handle: int

    async def read(self, turn: Talk, count: int = CHUNK) -> tuple[bytes, bool]:
        """At most `count` bytes from where it stands, and whether that is all there is by now."""
        return parse_read(await turn.execute(*self.reading(count)), count)

    def reading(self, count: int = CHUNK) -> Request:
        """The request of a `read`; see `parse_read`."""
        return "guest-file-read", {"handle": self.handle, "count": count}

    async def write(self, turn: Talk, data: bytes) -> None:
        """Write all of `data` where it stands. Raises AgentError, which has a class where the guest could not."""
        arguments = {"handle": self.handle, "buf-b64": b2a_base64(data, newline=False).decode()}
        count = take(await turn.execute("guest-file-write", arguments), "count", int)
        if count != len(data):
            raise AgentError(f"the guest agent says that it wrote {count} of {len(data)} bytes")

    async def flush(self, turn: Talk) -> None:
        """Hand what was written to the guest's kernel."""
        await turn.execute("guest-file-flush", {"handle": self.handle})

    async def left(self, turn: Talk) -> int:
        """Bytes from where it stands to its present end."""
        here = await self._seek(turn, 0, "cur")
        end = await self._seek(turn, 0, "end")
        await self._seek(turn, here, "set")
        return end - here

    async def _seek(self, turn: Talk, offset: int, whence: str) -> int:
        arguments = {"handle": self.handle, "offset": offset, "whence": whence}
        return take(await turn.execute("guest-file-seek", arguments), "position", int)

    async def close(self, turn: Talk) -> None:
        """Let the agent forget the file."""
        await turn.execute(*self.closing())

    def closing(self) -> Request:
        """The request of a `close`."""
        return "guest-file-close", {"handle": self.handle}


def parse_read(reply: object, count: int = CHUNK) -> tuple[bytes, bool]:
    """What a `File.read` of `count` bytes gives, from its reply. Raises AgentError."""
    data = take_bytes(reply, "buf-b64")
    if len(data) > count:
        raise AgentError(f"the guest agent read {len(data)} bytes where {count} were asked for")
    return data, take(reply, "eof", bool) or not data


async def open_file(turn: Talk, path: str, mode: Literal["r", "w", "r+"] = "r") -> File:
    """The file at `path`, opened by the agent; never waited for, were it a FIFO. Raises AgentError."""
    return parse_opened(await turn.execute(*opening(path, mode)))


def opening(path: str, mode: Literal["r", "w", "r+"] = "r") -> Request:
    """The request of `open_file`; see `parse_opened`."""
    return "guest-file-open", {"path": path, "mode": mode}


def parse_opened(reply: object) -> File:
    """The file that was opened, from the reply. Raises AgentError."""
    return File(take({"handle": reply}, "handle", int))


async def read_file(turn: Talk, path: str, *, limit: int) -> bytes:
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
