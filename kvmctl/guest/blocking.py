"""The agent without asyncio, whose import takes longer than a short command in the guest: one command, run by a process
that has nothing else to do.

What is asked of the agent, and in which order, is the same code as in asyncio. Its coroutines are run to their end
here, for nothing that they await ever suspends them: it blocks, in poll(2).
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from kvmctl.errors import DeadlineExceeded, KvmctlError
from kvmctl.guest.command import End
from kvmctl.guest.received import CHUNK, Lines, TimeIsUp
from kvmctl.guest.session import PATIENCE, Session, open_session
from kvmctl.guest.shell import Setting
from kvmctl.guest.spool import GOODBYE, Streamed
from kvmctl.guest.talk import Turns

_HURRIED: Final = GOODBYE
"""Seconds for what must not be interrupted, once somebody wants to."""

T = TypeVar("T")


class CommandInterrupted(Exception):
    """The command is not to be waited for any longer."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The signal that said so."""


class CommandSignals:
    """What signal handlers have for the command, and for who waits for it. To be closed."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._forwarded: deque[int] = deque()
        self._ending: int | None = None
        self._is_held = False
        self._limit: float | None = None

    def forward(self, number: int) -> None:
        """Send the command signal `number`."""
        self._forwarded.append(number)
        os.eventfd_write(self._wake, 1)

    def end(self, number: int) -> None:
        """Raise CommandInterrupted where the command is waited for."""
        self._ending = number
        if self._limit is None:
            self._limit = time.monotonic() + _HURRIED
        os.eventfd_write(self._wake, 1)

    def take(self) -> Iterator[int]:
        """The numbers of the signals for the command that were not yet taken, in order."""
        while self._forwarded:
            yield self._forwarded.popleft()

    def check(self) -> None:
        """Raises CommandInterrupted."""
        if self._ending is not None and not self._is_held:
            raise CommandInterrupted(self._ending)

    @contextmanager
    def held(self, seconds: float | None = None) -> Iterator[None]:
        """Nothing is interrupted in this context, but all of it has `seconds`, or a moment from when that is wanted."""
        limit = self._limit
        self._is_held = True
        if seconds is not None:
            self._limit = time.monotonic() + seconds
        try:
            yield
        finally:
            self._is_held = False
            self._limit = limit if seconds is not None else self._limit

    def wait(self, descriptor: int, mask: int, *, until: float | None) -> None:
        """Wait for `descriptor` (none: -1). Returns early for a signal. Raises TimeIsUp, CommandInterrupted."""
        self.check()
        if self._is_held and self._limit is not None:
            until = self._limit if until is None else min(until, self._limit)
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeIsUp
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if descriptor >= 0:
            poll.register(descriptor, mask)
        poll.poll(None if left is None else left * 1000)
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self.check()

    def close(self) -> None:
        """Forget it."""
        os.close(self._wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Line(Protocol):
    """A client's way through a channel: descriptors that don't block, and a turn at them."""

    reader: int
    writer: int

    def wait_for_turn(self, wait: Callable[[int], None]) -> None:
        """Wait until nobody else has the channel; `wait` waits for a descriptor. Raises OSError."""

    def close(self) -> None:
        """Hang up."""


class BlockingWire(Lines):
    """A connection that is waited for in poll(2)."""

    def __init__(self, line: Line, signals: CommandSignals) -> None:
        super().__init__()
        self._line = line
        self._signals = signals
        self._until: float | None = None

    def within(self, seconds: float | None) -> Self:
        """Give what is awaited in this context `seconds`. Raises TimeIsUp."""
        self._until = None if seconds is None else time.monotonic() + seconds
        return self

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._until = None

    async def wait_for_turn(self) -> None:
        """Wait until the channel is ours. Raises OSError, TimeIsUp, CommandInterrupted."""
        self._line.wait_for_turn(lambda descriptor: self._wait(descriptor, select.POLLIN))

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError, TimeIsUp, CommandInterrupted."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._line.writer, left) :]
            except BlockingIOError:
                self._wait(self._line.writer, select.POLLOUT)

    async def _read(self) -> bytes:
        while True:
            with suppress(BlockingIOError):
                # Before it is waited for: see `kvmctl.guest.wire`.
                if data := os.read(self._line.reader, CHUNK):
                    return data
                raise EOFError
            self._wait(self._line.reader, select.POLLIN)

    def _wait(self, descriptor: int, mask: int) -> None:
        self._signals.wait(descriptor, mask, until=self._until)

    def close(self) -> None:
        """Hang up."""
        self._line.close()


class BlockingTurn(Turns):
    """Turns at the agent's channel, through the connections that `connect` makes."""

    def __init__(self, connect: Callable[[], Line], signals: CommandSignals) -> None:
        super().__init__()
        self._connect = connect
        self._signals = signals

    def open(self, *, patience: float) -> None:
        """Take the channel and get in step within `patience` seconds. Raises AgentError and DeadlineExceeded."""
        session = go(self._open(patience=patience))
        session.patience = PATIENCE
        self._take(session)

    async def rest(self) -> None:
        """Wait before asking the same again, and longer the longer nothing has come. Raises CommandInterrupted."""
        with suppress(TimeIsUp):
            self._signals.wait(-1, 0, until=self._now() + self._begin_rest())

    async def _open(self, *, patience: float = PATIENCE) -> Session:
        return await open_session(lambda: BlockingWire(self._connect(), self._signals), patience=patience)

    def _now(self) -> float:
        return time.monotonic()


def go(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which awaits nothing but what is made here."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise RuntimeError("what awaits an event loop can't be run without one")


def run_streamed(
    turn: BlockingTurn,
    argv: Sequence[str],
    *,
    puts: Sequence[Callable[[bytes], None]],
    mark: str,
    signals: CommandSignals,
) -> End | None:
    """Run a command in the guest until it ends, as `kvmctl.guest.run.run` does one that streams.

    None where the guest can't stream, and nothing was started. Raises AgentError, DeadlineExceeded, CommandInterrupted,
    and what `puts` raise.
    """
    command = Streamed(turn, puts, mark=mark, is_last=True)
    try:
        with signals.held():  # to be ended, it must be known
            has_begun = go(command.begin(argv, Setting()))
        signals.check()
        if not has_begun:
            return None
        end = _follow(command, turn, signals)
        go(command.close())
    except DeadlineExceeded:
        signals.check()
        raise  # the agent would not hear a goodbye either
    except BaseException:
        with signals.held(GOODBYE), suppress(KvmctlError):
            go(command.abandon())
        raise
    return end


def _follow(command: Streamed, turn: BlockingTurn, signals: CommandSignals) -> End:
    while True:
        for number in signals.take():
            go(command.signal(number))
        end, has_come = go(command.look())
        if end is not None:
            return end
        if has_come:
            turn.note_activity()
        go(turn.rest())
