"""Run directories: who holds one, what is in it, and clearing away what a dead owner left.

Alive is a kernel lock: QEMU inherits a locked descriptor and the lock is held exactly while QEMU lives, whatever
kills it. A second lock, the tether, is held by the process a machine depends on; a free tether that still lies there
means that this process died in the middle. Only the standard library here, and little of it: ``list`` pays for every
import.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from signal import SIGKILL

from kvmctl.errors import AlreadyRunning, DeadlineExceeded, StateError
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import files
from kvmctl.runtime.process import Process, find_holder

_CAPTIVE = b"captive"
_REAP_SECONDS = 5.0


def find_roots() -> Roots:
    """The directories of the user who runs this, by the environment."""
    uid = os.getuid()
    return Roots.resolve(
        os.environ,
        uid=uid,
        home=os.path.expanduser("~"),
        has_run_user=os.path.isdir(f"/run/user/{uid}"),
    )


@dataclass(slots=True)
class Claim:
    """The right to start a machine: both locks, held by this process."""

    paths: MachinePaths
    lock: int
    tether: int
    is_captive: bool

    def release_lock(self) -> None:
        """Leave the lock to QEMU, which has inherited it."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def untether(self) -> None:
        """The machine stands on its own from now on."""
        if self.tether >= 0:
            with suppress(FileNotFoundError):
                os.unlink(self.paths.tether)
            os.close(self.tether)
            self.tether = -1

    def abandon(self) -> None:
        """Give the claim back and leave no run directory."""
        try:
            discard(self.paths)
        finally:
            self.release_lock()
            self.untether()


def claim(paths: MachinePaths, *, is_captive: bool) -> Claim:
    """The right to start the machine, for one process at a time. Raises AlreadyRunning, StateError.

    What a launcher that died in the middle left is cleared away first.
    """
    sweep_one(paths)
    try:
        lock = _lock_file(paths.lock)
        if lock is None:
            raise _already_running(paths)
        tether = _lock_file(paths.tether)
    except OSError as error:
        raise files.cannot("claim", paths.run, error) from error
    if tether is None:
        os.close(lock)
        raise _already_running(paths)
    try:
        os.ftruncate(tether, 0)
        os.write(tether, b"%d %s\n" % (os.getpid(), _CAPTIVE if is_captive else b"start"))
    except OSError as error:
        os.close(lock)
        os.close(tether)
        raise files.cannot("write", paths.tether, error) from error
    return Claim(paths, lock, tether, is_captive)


def is_alive(paths: MachinePaths) -> bool:
    """Whether somebody holds the machine's lock: QEMU, or a launcher about to start it."""
    return ofd.is_path_locked(paths.lock)


def is_tethered(paths: MachinePaths) -> bool:
    """Whether the process that the machine depends on is there."""
    return ofd.is_path_locked(paths.tether)


def read_tether(paths: MachinePaths) -> tuple[int | None, bool]:
    """The process id in the tether, and whether the machine is captive; ``(None, False)`` without one."""
    try:
        with open(paths.tether, "rb") as file:
            words = file.read(64).split()
    except OSError:
        return None, False
    pid = int(words[0]) if words and words[0].isdigit() else None
    return pid, _CAPTIVE in words


def read_pid(paths: MachinePaths) -> int | None:
    """The process id in the pid file: a hint, not a fact."""
    try:
        with open(paths.pid, "rb") as file:
            text = file.read(32).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def find_process(paths: MachinePaths) -> Process | None:
    """The machine's QEMU, shown to hold its lock; None where it is not running or is not ours to look at."""
    return find_holder(paths.lock, hint=read_pid(paths)) if is_alive(paths) else None


def run_names(roots: Roots) -> list[str]:
    """The names that have a run directory, sorted."""
    try:
        return sorted(name for name in os.listdir(roots.runtime) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.cannot("read", roots.runtime, error) from error


def discard(paths: MachinePaths) -> None:
    """Remove the run directory at once for everybody who looks, and then its content. Raises StateError."""
    # Under its own name it could be claimed again while it is being emptied.
    directory, name = os.path.split(paths.run)
    trash = os.path.join(directory, f".{name}.{os.getpid()}.trash")
    try:
        os.rename(paths.run, trash)
    except FileNotFoundError:
        return
    except OSError as error:
        raise files.cannot("remove", paths.run, error) from error
    files.remove_tree(trash)


def sweep(roots: Roots) -> None:
    """Clear away what dead launchers left, in every run directory."""
    for name in run_names(roots):
        with suppress(StateError, DeadlineExceeded):  # one unreadable directory must not hide the others; list shows it
            sweep_one(roots.machine(name))


def sweep_one(paths: MachinePaths) -> None:
    """Clear away what a dead launcher left of this machine: a QEMU that was never let go, the run directory of a
    captive one."""
    try:
        if not os.path.exists(paths.tether) or is_tethered(paths):
            return
    except OSError as error:
        raise files.cannot("look at", paths.run, error) from error
    with _exclusive(paths) as is_ours:
        if is_ours:
            _clear(paths)


def _clear(paths: MachinePaths) -> None:
    _, is_captive = read_tether(paths)
    process = find_process(paths)
    if process is not None:
        with process:
            process.signal(SIGKILL)
            if not process.wait(_REAP_SECONDS):
                raise DeadlineExceeded(f"QEMU of {paths.name!r} (process {process.pid}) does not die")
    if is_captive or not os.path.exists(paths.journal):
        discard(paths)
        return
    with suppress(FileNotFoundError):
        os.unlink(paths.tether)


@contextmanager
def _exclusive(paths: MachinePaths) -> Iterator[bool]:
    """Hold the tether while clearing away, so that two commands don't do it at once; False where another one does."""
    try:
        descriptor = os.open(paths.tether, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        raise files.cannot("look at", paths.tether, error) from error
    try:
        yield ofd.try_lock(descriptor)
    finally:
        os.close(descriptor)


def _already_running(paths: MachinePaths) -> AlreadyRunning:
    pid, _ = read_tether(paths)
    if pid is not None and is_tethered(paths):
        return AlreadyRunning(f"machine {paths.name!r} is held by process {pid}", hint=f"See: kvmctl show {paths.name}")
    pid = read_pid(paths)
    holder = f", process {pid}" if pid is not None else ""
    return AlreadyRunning(
        f"machine {paths.name!r} is already running{holder}",
        hint=f"Attach with: kvmctl console {paths.name}; end it with: kvmctl stop {paths.name}",
    )


def _lock_file(path: str) -> int | None:
    """A descriptor of `path` that holds its lock, or None where another one does."""
    while True:
        files.make_private_dir(os.path.dirname(path))
        with suppress(FileNotFoundError):  # the run directory was removed in between: begin again
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.fchmod(descriptor, 0o600)
            if not ofd.try_lock(descriptor):
                os.close(descriptor)
                return None
            if _is_same(descriptor, path):
                return descriptor
            os.close(descriptor)


def _is_same(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
