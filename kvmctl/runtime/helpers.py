"""Helper programs: started before QEMU, over when QEMU is.

The connection that QEMU will have exists before the helper does, waiting in its socket's queue. So if we are killed
at any moment, or QEMU is, the helper finds a connection that is closed and ends; none of them has to be told.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from signal import SIGKILL

from kvmctl import files
from kvmctl.errors import LaunchFailed
from kvmctl.image import ofd
from kvmctl.ioctl import confine
from kvmctl.plan.helper import Helper, Tree
from kvmctl.plan.model import Plan
from kvmctl.plan.option import resolve
from kvmctl.runtime.process import Process, disown
from kvmctl.runtime.sockets import connect_unix, listen_unix

_END_SECONDS = 5.0
"""How long a helper may take to notice that its connection is closed."""
_LOG_TAIL = 4096


@dataclass(slots=True)
class RunningHelper:
    """A helper that was started; ours until it is disowned or has ended."""

    helper: Helper
    popen: subprocess.Popen[bytes]
    process: Process
    status: int | None = None
    """How it ended of itself: its exit status, negative for a signal."""

    def end(self) -> None:
        """Wait for its end, which nobody who holds its connection may delay, and make one if it does not come."""
        if self.process.pidfd < 0:
            return
        if self.process.wait(_END_SECONDS):
            self.status = self.popen.wait()
        else:
            self.process.signal(SIGKILL)
            self.popen.wait()
        self.process.close()

    def disown(self) -> None:
        """It goes on without us."""
        self.popen.returncode = 0  # or Popen would complain that its child still runs
        disown(self.popen.pid)
        self.process.close()

    def last_words(self) -> str:
        """The end of what it printed."""
        return files.read_tail(self.helper.log, limit=_LOG_TAIL)


def start_helper(helper: Helper, *, env: Mapping[str, str], undo: ExitStack) -> tuple[int, RunningHelper]:
    """The connected descriptor for QEMU, which the caller closes, and the helper, which `undo` ends.

    Raises LaunchFailed, StateError.
    """
    with ExitStack() as stack, ExitStack() as ours:
        server = stack.enter_context(listen_unix(helper.socket))
        client = ours.enter_context(connect_unix(helper.socket))
        os.unlink(helper.socket)
        lock = _take_lock(helper.lock, stack)
        log = files.open_append(helper.log, truncate=True)
        stack.callback(os.close, log)
        if helper.tree is not None:
            files.make_private_dir(helper.tree.mount)
        popen = _exec(helper, server.fileno(), inherited=(lock,), log=log, env=env)
        # Whatever happens now: without its connection it ends by itself, and this only waits for that.
        process = undo.enter_context(Process(popen.pid, os.pidfd_open(popen.pid)))
        running = RunningHelper(helper, popen, process)
        undo.callback(running.end)
        ours.pop_all()
        return client.detach(), running
    raise LaunchFailed(f"cannot start {helper.program}")  # unreachable: the block above returns or raises


def command_line(helper: Helper, descriptor: int) -> list[str]:
    """The helper's whole command line, with the number of its listening socket."""
    words = [str(resolve(word, {helper.listens: descriptor})) for word in helper.argv]
    return words if helper.tree is None else [*_confined(helper.tree), *words]


def _confined(tree: Tree) -> list[str]:
    mode = "ro" if tree.read_only else "rw"
    return [sys.executable, "-I", "-S", confine.__file__, mode, tree.path, tree.mount, "--"]


def explain_failure(plan: Plan, helpers: tuple[RunningHelper, ...]) -> LaunchFailed | None:
    """The error for a start that a helper spoilt by ending of itself; None where none did."""
    for running in helpers:
        helper, status = running.helper, running.status
        if status:
            ended = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
            return LaunchFailed(
                f"{helper.program} of {helper.key} {ended} while starting {plan.name!r}",
                detail=running.last_words().strip(),
                hint="See: kvmctl doctor",
            )
    return None


def _take_lock(path: str, stack: ExitStack) -> int:
    """A descriptor that holds the lock of a fresh file: a helper of the last run may still be on its way out."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = files.open_append(path)
    stack.callback(os.close, descriptor)
    if not ofd.try_lock(descriptor):
        raise LaunchFailed(f"{path!r} is locked by another process", hint="Try again.")
    return descriptor


def _exec(
    helper: Helper, server: int, *, inherited: tuple[int, ...], log: int, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command_line(helper, server),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(server, *inherited),
            env=env,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchFailed(f"cannot run {helper.program} for {helper.key}: {error.strerror}") from error
