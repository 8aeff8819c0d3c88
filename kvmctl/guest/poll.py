"""The edge without asyncio, whose import takes longer than a short command in the guest: it blocks, in poll(2).

What is said to the guest, and in which order, is the same code as in asyncio. Its coroutines are run to their end here,
for nothing that they await ever suspends them.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from kvmctl.guest.received import CHUNK, Lines, TimeIsUp

_HURRIED: Final = 2.0
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

    def wait(self, descriptor: int, mask: int, *, until: float | None, beside: int = -1) -> None:
        """Wait for `descriptor`, or for `beside` to be readable (none: -1).

        Returns early for a signal. Raises TimeIsUp, CommandInterrupted.
        """
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
        if beside >= 0:
            poll.register(beside, select.POLLIN)
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


class Connection(Protocol):
    """A connected socket, as far as it is one here: its module takes time to import."""

    def fileno(self) -> int:
        """Its descriptor."""

    def close(self) -> None:
        """Hang up."""


class OwnLine:
    """A connection that is ours alone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.reader = self.writer = connection.fileno()
        os.set_blocking(self.reader, False)

    def wait_for_turn(self, wait: Callable[[int], None]) -> None:
        """There is nobody else."""

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


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


def go(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which awaits nothing but what is made here."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    work.close()
    raise RuntimeError("what awaits an event loop can't be run without one")
