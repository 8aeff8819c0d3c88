"""The process behind a machine: found by the lock it holds, and signalled only when it is the one.

A process id in a file proves nothing: the process may be gone and its number somebody else's. So the id is a hint,
the proof is that the process has the machine's lock file open, and what is signalled is a pidfd opened *before* the
proof was taken.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(slots=True)
class Process:
    """A process held by its pidfd; close it, or use it as a context manager."""

    pid: int
    pidfd: int

    def signal(self, number: signal.Signals) -> None:
        """Send `number`; nothing happens where the process is gone."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def wait(self, timeout: float | None) -> bool:
        """Whether the process ended within `timeout` seconds (None: however long it takes)."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))

    def close(self) -> None:
        """Let go of the descriptor; the process lives on."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_holder(lock: str, *, hint: int | None) -> Process | None:
    """The process that has the file `lock` open, `hint` looked at first; None where none can be seen.

    This process itself does not count: a launcher holds the lock while it starts a machine.
    """
    try:
        identity = _identity(lock)
    except FileNotFoundError:
        return None
    for pid in _candidates(hint):
        process = _open_holder(pid, identity)
        if process is not None:
            return process
    return None


def _candidates(hint: int | None) -> Iterator[int]:
    if hint is not None and hint > 1:
        yield hint
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != hint:
            yield int(name)


def _open_holder(pid: int, identity: tuple[int, int]) -> Process | None:
    if pid == os.getpid():
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    # From here on pidfd means this very process or nothing: if it has the lock open now, it is the one.
    if _has_open(pid, identity):
        return Process(pid, pidfd)
    os.close(pidfd)
    return None


def _has_open(pid: int, identity: tuple[int, int]) -> bool:
    directory = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(directory):
            with suppress(OSError):
                if _identity(f"{directory}/{name}") == identity:
                    return True
    return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
