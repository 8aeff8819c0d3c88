"""Following a machine's files without asking again and again: inotify for what is written, the pidfd for its end.

No asyncio here, so that commands that only watch don't pay for it; a `Watch` has a ``fileno`` for an event loop to
wait on.
"""

from __future__ import annotations

import errno
import select
import threading
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Self

from inotify_simple import INotify, flags

from kvmctl import files
from kvmctl.errors import StateError
from kvmctl.runtime.process import Process


class Watch:
    """Wakes up when a file is written to, and when the machine's process ends.

    Only that file: its neighbours may be a console that writes a byte at a time. `fileno` is readable on a change,
    for an event loop; without one, use `wait`.
    """

    def __init__(self, path: str, process: Process | None = None) -> None:
        """Raises StateError. A file that has been cleared away is not written to any more."""
        self._process = process
        self._inotify = watch_path(path, flags.MODIFY)

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
        """Stop watching. Nobody waits for the kernel to be done with that, which takes it up to 20 ms."""
        # fsnotify_destroy_group() waits for all who might be about to tell of a change. Whatever waits for an event
        # does so last of all: `exec` in a fork, say, whose guest has answered long since.
        try:
            threading.Thread(target=self._inotify.close).start()
        except RuntimeError:  # the interpreter is about to end, or there is no room for a thread
            self._inotify.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def watch_path(path: str, mask: int) -> INotify:
    """What is readable when something in `mask` happens to `path`, or in it, if it is there. Raises StateError."""
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
