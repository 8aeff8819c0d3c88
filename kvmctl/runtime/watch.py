"""Following a machine's files without asking again and again: inotify on its run directory, the pidfd for its end.

No asyncio here, so that commands that only watch don't pay for it; a `Watch` has a ``fileno`` for an event loop to
wait on.
"""

from __future__ import annotations

import errno
import select
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Self

from inotify_simple import INotify, flags

from kvmctl.errors import StateError
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import files
from kvmctl.runtime.process import Process


class Watch:
    """Wakes up when a file in a run directory changes, and when the machine's process ends.

    `fileno` is readable on a change, for an event loop; without one, use `wait`.
    """

    def __init__(self, paths: MachinePaths, process: Process | None = None) -> None:
        """Raises StateError. In a directory that has been cleared away nothing changes any more."""
        self._process = process
        self._inotify = watch_directory(paths.run, flags.MODIFY | flags.CREATE | flags.DELETE | flags.MOVED_TO)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return int(self._inotify.fileno())

    def drain(self) -> None:
        """Forget the changes seen so far."""
        self._inotify.read(timeout=0)

    def wait(self) -> None:
        """Wait for a change, or the process's end."""
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        if self._process is not None:
            poller.register(self._process.pidfd, select.POLLIN)
        poller.poll()
        self.drain()

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def watch_directory(path: str, mask: int) -> INotify:
    """What is readable when something in `mask` happens in `path`, if that is there. Raises StateError."""
    with ExitStack() as stack:
        try:
            inotify = stack.enter_context(closing(INotify(nonblocking=True)))
            inotify.add_watch(path, mask)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _cannot_watch(path, error) from error
        stack.pop_all()
    return inotify


def _cannot_watch(path: str, error: OSError) -> StateError:
    limits = {errno.EMFILE: "fs.inotify.max_user_instances", errno.ENOSPC: "fs.inotify.max_user_watches"}
    limit = limits.get(error.errno or 0)
    return StateError(
        f"cannot watch {path!r}: {error.strerror}",
        hint=f"Everybody who waits for a machine takes one of them; raise the limit: sysctl {limit}"
        if limit
        else files.cannot("watch", path, error).hint,
    )
