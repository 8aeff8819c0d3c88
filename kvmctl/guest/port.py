"""One copy's turn at the transfer port: a stream that a guest writes to, with what it likes, and reads from.

Everything the guest's script says begins with the copy's mark on a line of its own. What comes before the first of
those was left by somebody else; the last of those is the end. So nothing needs to be counted, and a file that grows
while it is copied comes as long as it was at its end.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import closing
from io import FileIO
from typing import Final, TypeAlias

from kvmctl.errors import AgentError, CopyFailed
from kvmctl.guest.reply import quote

Connect: TypeAlias = Callable[[], socket.socket]
"""Makes a connection to the port, or queues for one; raises OSError."""

_CHUNK: Final = 1 << 20
_STALE_MAX: Final = 64 << 20
"""Bytes of earlier copies that may come first."""
_LINE_MAX: Final = 256
_QUIET: Final = 0.25
"""Seconds without a byte after which it is asked whether the script still runs."""
_QUIET_MAX: Final = 4.0
_LAST_WORDS: Final = 1.0
"""Seconds in which what a script said last arrives after it has ended: its port and the agent's are two."""


class Port:
    """A connection to the port. `is_running` asks the guest's agent whether the script is still there."""

    def __init__(self, connection: socket.socket, mark: str, is_running: Callable[[], Awaitable[bool]]) -> None:
        connection.settimeout(0)
        self._socket = connection
        self._mark = mark.encode()
        self._is_running = is_running
        self._buffer = bytearray()
        self._moved = 0
        """Bytes in either direction, by which it is seen whether anything goes on."""

    async def read_line(self) -> list[str]:
        """The words of the next line of ours. Raises AgentError where none comes."""
        start = b"\n" + self._mark + b" "
        dropped = 0
        while (at := self._buffer.find(start)) < 0:
            dropped += len(self._buffer)
            del self._buffer[: -len(start)]
            if dropped > _STALE_MAX:
                raise AgentError("the guest sends something else than what was asked for")
            await self._fill(65536)
        del self._buffer[: at + len(start)]
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LINE_MAX:
                raise AgentError("the guest's side of the copy talks nonsense", detail=quote(bytes(self._buffer)))
            await self._fill(_LINE_MAX)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.decode(errors="replace").split()

    async def receive(self, put: Callable[[memoryview], None]) -> bool:
        """Pass on all that comes up to the closing line; whether that says that all went well. Raises AgentError."""
        closing_line = re.compile(rb"\n" + self._mark + rb" end (\d{1,3})\n\Z")
        held_max = len(self._mark) + 16
        chunk = bytearray(_CHUNK + held_max)
        held = len(self._buffer)
        chunk[:held] = self._buffer
        self._buffer.clear()
        view = memoryview(chunk)
        while True:
            match = closing_line.search(bytes(view[max(0, held - held_max) : held]))
            if match is not None:
                put(view[: held - len(match[0])])
                return match[1] == b"0"
            passed = max(0, held - held_max)
            put(view[:passed])
            chunk[: held - passed] = chunk[passed:held]
            held -= passed
            held += await self._receive_into(view[held : held + _CHUNK])

    async def _fill(self, limit: int) -> None:
        chunk = bytearray(limit)
        count = await self._receive_into(memoryview(chunk))
        self._buffer += chunk[:count]

    async def _receive_into(self, view: memoryview) -> int:
        """What comes next, waited for as long as something goes on."""
        patience, is_over = _QUIET, False
        while True:
            moved = self._moved
            await asyncio.sleep(0)  # there may always be more: nobody else would have a turn
            try:
                count = self._socket.recv_into(view)
            except BlockingIOError:
                if await self._is_readable(patience) or self._moved != moved:
                    continue
                if is_over:
                    raise CopyFailed("the guest's side of the copy ended before its end") from None
                is_over = not await self._is_running()
                patience = _LAST_WORDS if is_over else min(2 * patience, _QUIET_MAX)
                continue
            except OSError as error:
                raise _lost() from error
            if not count:
                raise _lost() from EOFError()
            self._moved += count
            return count

    async def _is_readable(self, patience: float) -> bool:
        """Whether something comes within `patience` seconds.

        Only looked for: a `sock_recv_into` that is cancelled when it has just received something loses it.
        """
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self._socket, _wake, ready)
        try:
            async with asyncio.timeout(patience):
                await ready
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._socket)
        return True

    async def send(self, data: bytes) -> None:
        """Send `data`. Raises AgentError."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise _lost() from error
        self._moved += len(data)

    async def send_file(self, descriptor: int, size: int, *, on_sent: Callable[[int], None]) -> int:
        """Send the first `size` bytes of an open file, which is closed; how many there were. Raises AgentError."""
        loop = asyncio.get_running_loop()
        sent = 0
        with closing(FileIO(descriptor)) as file:
            while sent < size:
                count = min(_CHUNK, size - sent)
                try:
                    moved = await loop.sock_sendfile(self._socket, file, sent, count)
                except OSError as error:
                    raise _lost() from error
                if not moved:
                    break
                sent += moved
                self._moved += moved
                on_sent(moved)
        return sent

    def close(self) -> None:
        """Hang up, which discards what the guest has not taken."""
        self._socket.close()


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _lost() -> AgentError:
    return AgentError("the guest's transfer port was closed in the middle of a copy")
