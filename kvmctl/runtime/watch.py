"""Following a machine's files without asking again and again: inotify on its run directory, the pidfd for its end.

No asyncio here, so that commands that only watch don't pay for it; a `Watch` has a ``fileno`` for an event loop to
wait on.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from inotify_simple import INotify, flags

from kvmctl.errors import StateError
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.events import Event, parse_lines
from kvmctl.runtime.journal import Tail
from kvmctl.runtime.process import Process


class Watch:
    """Wakes up when a file in a run directory changes, and when the machine's process ends.

    `fileno` is readable on a change, for an event loop; without one, use `wait`.
    """

    def __init__(self, paths: MachinePaths, process: Process | None = None) -> None:
        self._process = process
        self._inotify = INotify(nonblocking=True)
        try:
            self._inotify.add_watch(paths.run, flags.MODIFY | flags.CREATE | flags.DELETE | flags.MOVED_TO)
        except OSError as error:
            self._inotify.close()
            raise StateError(f"cannot watch {paths.run!r}: {error.strerror}") from error

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return int(self._inotify.fileno())

    def drain(self) -> None:
        """Forget the changes seen so far."""
        self._inotify.read(timeout=0)

    def wait(self, deadline: float | None) -> bool:
        """Wait for a change, the process's end, or `deadline` (by ``time.monotonic``); False at the deadline."""
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        if self._process is not None:
            poller.register(self._process.pidfd, select.POLLIN)
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poller.poll(timeout):
            return False
        self.drain()
        return True

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def follow_events(
    paths: MachinePaths, process: Process | None, *, deadline: float | None = None
) -> Iterator[Event | None]:
    """The events so far, then each as it comes, until the process ends, or `deadline` passes: a last None."""
    tail = Tail(paths.journal)
    with Watch(paths, process) as watch:
        while True:
            is_over = process is None or process.wait(0)  # before the read: nothing can be written after it
            yield from parse_lines(tail.lines())
            if is_over:
                return
            if not watch.wait(deadline):
                yield None
                return
