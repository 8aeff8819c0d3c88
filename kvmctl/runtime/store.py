"""Run directories: who holds one, what is in it, and clearing away what a dead owner left.

Alive is a kernel lock: QEMU inherits a locked descriptor and the lock is held exactly while QEMU lives, whatever
kills it. A second lock, the tether, is held by the process a machine depends on; a free tether that still lies there
means that this process died in the middle. Only the standard library here, and little of it: ``list`` pays for every
import.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from kvmctl import files
from kvmctl.errors import AlreadyRunning, DeadlineExceeded, NotFound, StateError
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import aside, clearing
from kvmctl.runtime.helper_locks import find_helper, has_helpers
from kvmctl.runtime.process import Process, find_holder, is_hidden

_CAPTIVE = b"captive"
_HELPER_SECONDS = 2.0


def find_roots() -> Roots:
    """The directories of the user who runs this, by the environment."""
    uid = os.getuid()
    return Roots.resolve(
        os.environ,
        uid=uid,
        home=os.path.expanduser("~"),
        has_run_user=os.path.isdir(f"/run/user/{uid}"),
    )


class Claim:
    """The right to start a machine: both locks, held by this process."""

    def __init__(self, paths: MachinePaths, *, lock: int, tether: int, is_captive: bool) -> None:
        self.paths = paths
        self.lock = lock
        self.tether = tether
        self.is_captive = is_captive

    @property
    def is_held(self) -> bool:
        """Whether it was neither abandoned nor let go: the machine depends on us."""
        return self.tether >= 0

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
            self._close_tether()
            with suppress(StateError):
                aside.forget(self.paths)  # or the next start does

    def _close_tether(self) -> None:
        if self.tether >= 0:
            os.close(self.tether)
            self.tether = -1

    def abandon(self) -> None:
        """Give the claim back, and have all be as it was before: nobody has the lock from us, what was made is not
        there, and the run directory is that of the run before, or none.

        Done once, however often it is asked for. Raises StateError, DeadlineExceeded.
        """
        self._end(partial(clearing.undo, was_held=True))

    def forget(self) -> None:
        """Give the claim back, with nothing left of any run. Raises StateError, DeadlineExceeded."""
        self._end(clearing.discard)

    def _end(self, clear: Callable[[MachinePaths], None]) -> None:
        if not self.is_held:
            return
        self.release_lock()  # the tether keeps everybody out
        try:
            with _one_at_a_time(self.paths):
                clearing.end(self.paths, find_process(self.paths))
                clear(self.paths)
        finally:
            self._close_tether()


def claim(paths: MachinePaths, *, is_captive: bool) -> Claim:
    """The right to start the machine, for one process at a time. Raises AlreadyRunning, StateError.

    What a launcher that died in the middle left is cleared away first.
    """
    with _one_at_a_time(paths):
        _sweep(paths)
        if os.path.exists(paths.tether):
            raise already_running(paths)  # of a run that is not to be touched, were its QEMU gone
        was_there = os.path.exists(paths.run)
        try:
            return _claim(paths, is_captive=is_captive)
        except AlreadyRunning:
            raise
        except BaseException:
            if not was_there:
                clearing.discard(paths)
            raise


def _claim(paths: MachinePaths, *, is_captive: bool) -> Claim:
    files.make_private_dir(paths.run)
    with ExitStack() as stack:
        lock = _lock_file(paths.lock, paths, stack)
        aside.forget(paths)  # of a start that was killed when it had just succeeded
        try:
            aside.set_aside(paths)
            tether = _lock_file(paths.tether, paths, stack)
            _write_tether(tether, paths, is_captive=is_captive)
            clearing.discard_scratch(paths)  # of an earlier run, whose run directory did not survive a reboot
        except BaseException:
            aside.put_back(paths)
            raise
        stack.pop_all()
    return Claim(paths, lock=lock, tether=tether, is_captive=is_captive)


def _write_tether(descriptor: int, paths: MachinePaths, *, is_captive: bool) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d %s\n" % (os.getpid(), _CAPTIVE if is_captive else b"start"))
    except OSError as error:
        raise files.cannot("write", paths.tether, error) from error


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
    """The machine's QEMU, shown to hold its lock; None where it is not running. Raises StateError where that is hidden
    from us: then it runs, as another user or in another container."""
    if not is_alive(paths):
        return None
    pid = read_pid(paths)
    process = find_holder(paths.lock, tether=paths.tether, hint=pid)
    if process is None and pid is not None and is_hidden(pid):
        raise StateError(
            f"machine {paths.name!r} runs, but its process can't be seen from here",
            detail=f"process {pid}, by its pid file",
            hint="It is another user's, or you are in a container: go where it was started.",
        )
    return process


def run_names(roots: Roots) -> list[str]:
    """The names that have a run directory, sorted."""
    try:
        return sorted(name for name in os.listdir(roots.runtime) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.cannot("read", roots.runtime, error) from error


def sweep(roots: Roots) -> None:
    """Clear away what dead launchers left, in every run directory."""
    for name in run_names(roots):
        # One directory that can't be read, or that is no machine's, must not hide the others; list shows it.
        with suppress(StateError, DeadlineExceeded, NotFound):
            sweep_one(roots.machine(name))
    _sweep_scratch(roots)


def _sweep_scratch(roots: Roots) -> None:
    """Clear away the disks of ephemeral machines whose run directory is gone: it did not survive a reboot."""
    try:
        names = os.listdir(roots.ephemeral)
    except OSError:
        return
    for name in names:
        with suppress(StateError, NotFound):
            paths = roots.machine(name)
            if not os.path.exists(paths.run):
                with _one_at_a_time(paths):
                    if not os.path.exists(paths.run):
                        clearing.discard_scratch(paths)


def sweep_one(paths: MachinePaths) -> None:
    """Clear away what a dead launcher left of this machine: a QEMU that was never let go, a captive's run directory."""
    if _is_abandoned(paths):
        with _one_at_a_time(paths):
            _sweep(paths)


def _sweep(paths: MachinePaths) -> None:
    if _is_abandoned(paths):
        process = find_process(paths)
        was_held = process is not None and process.pid == read_pid(paths)
        clearing.end(paths, process)
        clearing.undo(paths, was_held=was_held)


def end_helpers(paths: MachinePaths) -> None:
    """Wait for the helpers of a machine that has ended, which end by themselves; make those end that do not."""
    while has_helpers(paths):
        with _one_at_a_time(paths):
            helper = None if is_alive(paths) else find_helper(paths)  # of a run that is alive they are the next one's
        if helper is None:
            return
        with helper:
            if not helper.wait(_HELPER_SECONDS):
                clearing.end_process(helper, f"a helper of {paths.name!r}")


def _is_abandoned(paths: MachinePaths) -> bool:
    """Whether whoever was starting or owning the machine is gone, and left something."""
    try:
        if os.path.exists(paths.tether):
            return not is_tethered(paths)
        return os.path.isdir(paths.run) and not os.path.exists(paths.plan) and not is_alive(paths)
    except OSError as error:
        raise files.cannot("look at", paths.run, error) from error


@contextmanager
def _one_at_a_time(paths: MachinePaths) -> Iterator[None]:
    """Claiming and clearing away exclude each other, among all processes, for the instant that they take."""
    directory = os.path.dirname(paths.run)
    files.make_private_dir(directory)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise files.cannot("open", directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def already_running(paths: MachinePaths) -> AlreadyRunning:
    """The error for a machine whose lock somebody holds."""
    pid, _ = read_tether(paths)
    if pid is not None and is_tethered(paths):
        return AlreadyRunning(f"machine {paths.name!r} is held by process {pid}", hint=f"See: kvmctl show {paths.name}")
    pid = read_pid(paths)
    holder = f", process {pid}" if pid is not None else ""
    return AlreadyRunning(
        f"machine {paths.name!r} is already running{holder}",
        hint=f"Attach with: kvmctl console {paths.name}; end it with: kvmctl stop {paths.name}",
    )


def _lock_file(path: str, paths: MachinePaths, stack: ExitStack) -> int:
    """A descriptor of `path` that holds its lock; `stack` closes it. Raises AlreadyRunning."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        stack.callback(os.close, descriptor)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise files.cannot("open", path, error) from error
    if not ofd.try_lock(descriptor):
        raise already_running(paths)
    return descriptor
