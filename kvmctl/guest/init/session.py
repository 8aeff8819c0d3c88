"""The host's side of the port: makes the root, runs commands in it, one at a time.

The guest is not trusted: what comes is bounded, and what it may not say ends the session. Time is the caller's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias

from kvmctl.errors import AgentError
from kvmctl.guest.init import wire
from kvmctl.guest.init.wire import Decoder, Frame, Send, Take

Input: TypeAlias = bytes | AsyncIterable[bytes]
"""What a command is given on its stdin: all of it, or piece by piece."""

NOT_RUNNABLE: Final = 126
NOT_FOUND: Final = 127
_READ = 256 << 10


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal for a command: its size in characters. What the command says on it comes as its stdout."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True)
class Order:
    """A command, and what it is run as."""

    argv: Sequence[str]
    env: Mapping[str, str]
    directory: str
    uid: int
    gid: int
    groups: Sequence[int] = ()
    terminal: Terminal | None = None

    def settings(self) -> list[tuple[str, str]]:
        """The order in init's words."""
        pairs = [("argument", word) for word in self.argv]
        pairs += [("variable", f"{name}={value}") for name, value in self.env.items()]
        pairs += [("directory", self.directory), ("path", self.env.get("PATH", "")), ("uid", str(self.uid))]
        pairs += [("gid", str(self.gid)), *(("group", str(group)) for group in self.groups)]
        if self.terminal is not None:
            pairs.append(("terminal", f"{self.terminal.rows} {self.terminal.columns}"))
        return pairs


class Refused(Exception):
    """The command could not be run; the guest is as it was."""

    def __init__(self, failure: wire.Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure

    @property
    def exit_code(self) -> int | None:
        """What a shell would exit with; None where it was not the command itself that failed."""
        if not self.failure.doing.startswith("run "):
            return None
        return NOT_FOUND if self.failure.errno == errno.ENOENT else NOT_RUNNABLE


class Failed(Exception):
    """Init could not go on; nothing more will come of it."""

    def __init__(self, failure: wire.Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Session:
    """The connection to init. Raises EOFError wherever the guest ends, AgentError where it talks nonsense."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self._room = 0
        self._granted = asyncio.Event()

    @classmethod
    async def connect(cls, port: socket.socket) -> Self:
        """A session over `port`, which is the session's from now on."""
        return cls(*await asyncio.open_unix_connection(sock=port))

    async def set_up(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Make the root; returns when it is there. Raises Failed, EOFError, AgentError."""
        self._send(Send.SETUP, wire.settings(pairs))
        frame = await self._next()
        if frame.type is not Take.READY:
            raise AgentError(f"the guest's init said {frame.type.name} before it was ready")

    async def run(
        self,
        order: Order,
        *,
        stdin: Input = b"",
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
    ) -> int:
        """Run a command to its end; its status as ``waitpid`` has it. Raises Refused, Failed, EOFError, AgentError."""
        self._room = wire.WINDOW
        self._granted.set()
        self._send(Send.COMMAND, wire.settings(order.settings()))
        feeding = asyncio.ensure_future(self._feed(stdin))
        listening = asyncio.ensure_future(self._listen(on_stdout, on_stderr))
        try:
            await asyncio.wait([feeding, listening], return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                feeding.result()  # where the input failed, so does the command
            return await listening
        finally:
            for task in (feeding, listening):
                task.cancel()
            await asyncio.gather(feeding, listening, return_exceptions=True)

    def signal(self, number: int) -> None:
        """Send a signal to the command that runs, if one does, and to all of its process group."""
        self._writer.write(wire.signal_frame(number))

    def resize(self, rows: int, columns: int) -> None:
        """Give the command's terminal, if it has one, another size."""
        self._writer.write(wire.size_frame(rows, columns))

    def close(self) -> None:
        """Let go of the port; the guest powers off."""
        self._writer.close()

    def _send(self, kind: Send, body: bytes = b"") -> None:
        self._writer.write(wire.encode(kind, body))

    async def _listen(self, on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None]) -> int:
        while True:
            frame = await self._next()
            match frame.type:
                case Take.OUTPUT:
                    on_stdout(frame.body)
                case Take.ERRORS:
                    on_stderr(frame.body)
                case Take.GRANT:
                    self._room = min(self._room + wire.read_grant(frame.body), wire.WINDOW)
                    self._granted.set()
                case Take.REFUSED:
                    raise Refused(wire.read_failure(frame.body))
                case Take.EXITED:
                    return wire.read_status(frame.body)
                case _:
                    raise AgentError(f"the guest's init said {frame.type.name} while a command ran")

    async def _next(self) -> Frame:
        while not self._frames:
            try:
                data = await self._reader.read(_READ)
            except ConnectionError:
                data = b""  # QEMU ended with input unread
            if not data:
                raise EOFError
            self._frames.extend(self._decoder.feed(data))
        frame = self._frames.popleft()
        if frame.type is Take.FAILED:
            raise Failed(wire.read_failure(frame.body))
        return frame

    async def _feed(self, stdin: Input) -> None:
        """Pass on the input as the command takes it, and its end."""
        with suppress(ConnectionError):  # who listens is told of the end as well
            async for piece in _pieces(stdin):
                await self._give(piece)
            self._send(Send.END)

    async def _give(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            while not self._room:
                self._granted.clear()
                await self._granted.wait()
            size = min(len(view), self._room, wire.INPUT_MAX)
            self._room -= size
            self._send(Send.INPUT, bytes(view[:size]))
            view = view[size:]
            await self._writer.drain()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _pieces(stdin: Input) -> AsyncIterator[bytes]:
    if isinstance(stdin, bytes):
        yield stdin
        return
    async for piece in stdin:
        yield piece


def exit_code(status: int) -> tuple[int, int | None]:
    """The exit code that a shell makes of a status, 128 and the signal's number for one that a signal ended; and that
    signal."""
    code = os.waitstatus_to_exitcode(status)
    return (128 - code, -code) if code < 0 else (code, None)
