"""Running a command in the guest: its streams, its signals, its exit code at the end.

Where nobody wants its output as it comes, it is the agent's to keep until the end: one request starts the command,
nothing is made in the guest. Else it streams, through a spool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError
from kvmctl.guest.agent import Agent
from kvmctl.guest.beside import beside
from kvmctl.guest.command import End, find_end, run_captured, start_command
from kvmctl.guest.feed import Feed
from kvmctl.guest.files import open_file
from kvmctl.guest.shell import END, SHELL, Setting, become
from kvmctl.guest.spool import GOODBYE, Streamed
from kvmctl.guest.turn import Turn
from kvmctl.guest.words import check_command, make_mark

OnOutput: TypeAlias = Callable[[bytes], None]
"""Takes output as it comes, in pieces of any size."""

KEEP_MAX: Final = 64 << 20
"""Bytes of one stream that are kept for the result; a callback has no limit."""
_HELD_CHECK: Final = 1.0
"""Seconds between two looks at whether a command is gone whose output goes on."""
_HELD_MAX: Final = 3
"""Looks in a row after which it is said that somebody else holds the output."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What became of a command in the guest."""

    exit_code: int
    """The command's own; 128 and the signal's number if a signal ended it; 126 and 127 as shells have it."""
    signal: int | None
    stdout: bytes
    """All of it, but for what went to a callback."""
    stderr: bytes
    truncated: bool
    """There was more output than could be kept: 16 MiB of either stream by the agent, for a callback no limit."""


class Control:
    """What can be done from outside to a command while it runs."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        """Set when there is something to be done."""
        self._signals: deque[int] = deque()

    def signal(self, number: int) -> None:
        """Send the command signal `number`, and what it has started too; nothing once it has ended."""
        self._signals.append(number)
        self.wake.set()

    def take(self) -> Iterator[int]:
        """The numbers of the signals that were sent and not yet taken, in order."""
        self.wake.clear()
        while self._signals:
            yield int(self._signals.popleft())


class Sink:
    """Where one stream goes: to the callback, or into memory up to `KEEP_MAX`."""

    def __init__(self, callback: OnOutput | None) -> None:
        self._callback = callback
        self._kept = bytearray()
        self.truncated = False

    def put(self, data: bytes) -> None:
        """Pass on `data`, or keep what there is room for."""
        if self._callback is not None:
            self._callback(data)
            return
        room = KEEP_MAX - len(self._kept)
        self._kept += data[:room]
        self.truncated |= len(data) > room

    @property
    def kept(self) -> bytes:
        """What was kept."""
        return bytes(self._kept)


async def run(
    agent: Agent,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: str | None = None,
    stdin: bytes | AsyncIterable[bytes] = b"",
    on_stdout: OnOutput | None = None,
    on_stderr: OnOutput | None = None,
    control: Control | None = None,
    mark: str = "",
) -> ExecResult:
    """Run a command in the guest until it ends; found on the guest's PATH where it has no slash.

    `env` is added to the agent's own environment; `user` is who it runs as, and `cwd` where. Input may come in pieces,
    as a command's output does where there is a callback, or a `control`. Without these, the agent keeps the output,
    and the command has ended when all that it started have closed it. A streamed command bears `mark` in the guest, a
    name from `make_mark`. Whoever stops waiting, by cancelling, ends the command too. In a guest without ``/bin/sh``
    the output comes at the end, and only a command and its whole input can be given. Raises AgentError,
    DeadlineExceeded.
    """
    setting = Setting(env or {}, user, cwd)
    whole = stdin if isinstance(stdin, bytes) else b""
    check_command(argv, stdin=whole)
    setting.check()
    sinks = Sink(on_stdout), Sink(on_stderr)
    pieces = None if isinstance(stdin, bytes) else stdin
    is_streamed = on_stdout or on_stderr or control or pieces is not None
    async with Turn(agent) as turn:
        end = None
        if is_streamed:
            streamed = _Streamed(
                turn,
                Streamed(turn, [sink.put for sink in sinks], mark=mark or make_mark()),
                control or Control(),
                pieces,
            )
            end = await streamed.run(argv, setting, stdin=whole)
        if end is None:
            end = await _run_kept(turn, argv, setting, whole if pieces is None else await _gather(pieces))
            sinks[0].put(end.stdout)
            sinks[1].put(end.stderr)
    truncated = end.truncated or any(sink.truncated for sink in sinks)
    return ExecResult(end.exit_code, end.signal, sinks[0].kept, sinks[1].kept, truncated)


async def _gather(pieces: AsyncIterable[bytes]) -> bytes:
    whole = bytearray()
    async for piece in pieces:
        whole += piece
    check_command(["-"], stdin=whole)
    return bytes(whole)


# -- output kept by the agent --------------------------------------------------------------------------------------


async def _run_kept(turn: Turn, argv: Sequence[str], setting: Setting, stdin: bytes) -> End:
    try:
        return await _start_and_wait(turn, become(argv, setting) if setting else argv, stdin)
    except AgentError as error:
        if error.error_class != "GenericError":
            raise
        if setting:
            raise AgentError(
                f"the guest has no {SHELL}, which it takes to prepare a command", detail=str(error)
            ) from error
        refusal = error
    try:
        return await _start_and_wait(turn, become(argv, setting), stdin)  # a shell tells 126 from 127, and why
    except AgentError as error:
        raise refusal if error.error_class == "GenericError" else error from None


async def _start_and_wait(turn: Turn, argv: Sequence[str], stdin: bytes) -> End:
    starting = asyncio.ensure_future(start_command(turn, argv, stdin=stdin, capture=True))
    try:
        await asyncio.wait([starting])
        return await _wait_kept(turn, starting.result())
    except DeadlineExceeded:
        raise
    except BaseException:
        await _abandon(starting, partial(_end_kept, turn, starting))
        raise


async def _end_kept(turn: Turn, starting: asyncio.Future[int]) -> None:
    turn.give_back()  # an answer may be on its way: the goodbye needs a channel that is in step
    if not starting.exception():
        await run_captured(turn, [SHELL, "-c", END, "kvmctl", str(starting.result())])


async def _wait_kept(turn: Turn, pid: int) -> End:
    loop = asyncio.get_running_loop()
    looked, gone = loop.time(), 0
    while (end := await find_end(turn, pid, captured=True)) is None:
        if loop.time() - looked > _HELD_CHECK:
            looked = loop.time()
            gone = gone + 1 if await _is_gone(turn, pid) else 0
            if gone == _HELD_MAX:
                raise AgentError(
                    "the command has ended, but something that it started still holds its output",
                    hint="Start what stays with its output elsewhere (>/dev/null 2>&1 &), or stream the output.",
                )
        await turn.rest()
    return end


async def _is_gone(turn: Turn, pid: int) -> bool:
    """Whether there is no process `pid`, as far as files of the guest tell."""
    try:
        await (await open_file(turn, "/proc/self/stat")).close(turn)
    except AgentError as error:
        if not error.error_class:
            raise
        return False  # a guest without /proc, or whose files are none of ours
    try:
        await (await open_file(turn, f"/proc/{pid}/stat")).close(turn)
    except AgentError as error:
        return bool(error.error_class)
    return False


# -- streams -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Streamed:
    """One command whose output goes through a spool, our signals and our input on their way to it."""

    turn: Turn
    command: Streamed
    control: Control
    pieces: AsyncIterable[bytes] | None
    feed: Feed | None = None

    async def run(self, argv: Sequence[str], setting: Setting, *, stdin: bytes) -> End | None:
        """Its end; None where the guest can't stream, and nothing was started."""
        begin = self.command.begin(argv, setting, stdin=stdin, has_stdin=self.pieces is not None)
        beginning = asyncio.ensure_future(begin)  # to be ended, it must be known
        try:
            await asyncio.wait([beginning])
            if not beginning.result():
                return None
            end = await self._wait()
            await self._close()
        except DeadlineExceeded:
            raise  # the agent would not hear a goodbye either
        except BaseException:
            await _abandon(beginning, self.command.abandon)
            raise
        return end

    async def _wait(self) -> End:
        if self.pieces is None or self.command.stdin is None:
            return await self._follow()
        self.feed = Feed(self.pieces, self.command.stdin, path=self.command.stdin_path, wake=self.control.wake)
        async with beside(self.feed.collect()):
            return await self._follow()

    async def _follow(self) -> End:
        while True:
            for number in self.control.take():
                await self.command.signal(number)
            end, has_come = await self.command.look()
            if end is not None:
                return end
            is_fed = self.feed is not None and await self.feed.deliver(self.turn)
            if is_fed or has_come:
                self.turn.note_activity()
            await self.turn.rest(wake=self.control.wake)

    async def _close(self) -> None:
        if self.feed is not None:
            await self.feed.close(self.turn)
        await self.command.close()


async def _abandon(starting: asyncio.Future[Any], end: Callable[[], Awaitable[None]]) -> None:
    """End a command that nobody waits for, as far as that can be done in a moment."""
    try:
        with suppress(KvmctlError, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await asyncio.wait([starting])
                await end()
    finally:
        starting.cancel()
