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
from types import TracebackType
from typing import Self, TypeAlias

from kvmctl.errors import KvmctlError

_Identity: TypeAlias = tuple[int, int]

_disowned: set[int] = set()
"""Children of ours that go on without us: who of them has ended is to be collected, or stays a zombie."""


class Process:
    """A process held by its pidfd; close it, or use it as a context manager."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.has_ended = False
        """It was seen to have ended, which no closing makes unseen."""

    def signal(self, number: signal.Signals) -> None:
        """Send `number`; nothing happens where the process is gone. Raises KvmctlError once closed."""
        if not self.wait(0):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def wait(self, timeout: float | None) -> bool:
        """Whether the process ended within `timeout` seconds (None: however long it takes).

        Raises KvmctlError where that can't be known any more, because it was closed before.
        """
        if self.has_ended:
            return True
        if self.pidfd < 0:
            raise KvmctlError(f"process {self.pid} was let go of and is not looked at any more", hint="Attach again.")
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        self.has_ended = bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))
        if self.has_ended:
            reap_disowned()
        return self.has_ended

    def close(self) -> None:
        """Let go of the descriptor; the process lives on."""
        if self.pidfd >= 0:
            self.wait(0)
            os.close(self.pidfd)
            self.pidfd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def disown(pid: int) -> None:
    """The child `pid` goes on without us; see `reap_disowned`."""
    _disowned.add(pid)


def reap_disowned() -> None:
    """Collect those of our children that went on without us and have ended since."""
    for pid in tuple(_disowned):
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _disowned.discard(pid)


def find_holder(lock: str, *, tether: str, hint: int | None) -> Process | None:
    """The process that holds the lock of the file `lock`, `hint` looked at first; None where none can be seen.

    Who holds `tether` as well does not count: that is a launcher that has yet to start what will keep the lock.
    """
    try:
        wanted = _identity(lock)
    except FileNotFoundError:
        return None
    for pid in _candidates(hint):
        process = _open_holder(pid, wanted, unless=_find_identity(tether))
        if process is not None:
            return process
    return None


def is_hidden(pid: int) -> bool:
    """Whether there is a process `pid` that we may not look into."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _candidates(hint: int | None) -> Iterator[int]:
    if hint is not None and hint > 1:
        yield hint
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != hint:
            yield int(name)


def _open_holder(pid: int, wanted: _Identity, *, unless: _Identity | None) -> Process | None:
    if pid == os.getpid():
        return None
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    # From here on pidfd means this very process or nothing: if it holds the lock now, it is the one.
    if _holds(pid, wanted) and (unless is None or not _holds(pid, unless)):
        return Process(pid, pidfd)
    os.close(pidfd)
    return None


def _holds(pid: int, wanted: _Identity) -> bool:
    """Whether `pid` has the file open by the very description that is locked; to have it open is no proof.

    Whoever asks whether it is locked has it open too, for a moment.
    """
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if _identity(f"/proc/{pid}/fd/{name}") == wanted and _is_locked(f"/proc/{pid}/fdinfo/{name}"):
                    return True
    return False


def _is_locked(info: str) -> bool:
    """Whether a description holds a lock of its own, by its lines in fdinfo (proc_pid_fdinfo(5))."""
    with open(info, "rb") as file:
        return b"OFDLCK" in file.read()


def _identity(path: str) -> _Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _find_identity(path: str) -> _Identity | None:
    with suppress(OSError):
        return _identity(path)
    return None
