"""Whose turn it is at the port that files are copied through: one copy at a time, the others wait."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TypeAlias

from inotify_simple import flags

from kvmctl import files
from kvmctl.errors import NotRunning
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.observe import wait_readable
from kvmctl.runtime.process import Process
from kvmctl.runtime.watch import watch_path

OnWait: TypeAlias = Callable[[int | None], None]
"""Told once, before waiting: the process that is copying, where it is known."""


@asynccontextmanager
async def turn(paths: MachinePaths, process: Process, *, on_wait: OnWait | None = None) -> AsyncIterator[None]:
    """The port for one copy, waited for. Raises NotRunning where the machine ends before it, StateError."""
    with ExitStack() as stack:
        try:
            descriptor = os.open(paths.transfer_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise files.cannot("open", paths.transfer_lock, error) from error
        stack.callback(os.close, descriptor)
        if not ofd.try_lock(descriptor):
            if on_wait is not None:
                on_wait(_holder(descriptor))
            await _wait(descriptor, paths, process)
        with suppress(OSError):  # the lock holds on a full disk, too; who waits is not told for whom
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield


async def _wait(descriptor: int, paths: MachinePaths, process: Process) -> None:
    """Wait until the lock is ours: whoever has it closes the file, were it by being killed."""
    with watch_path(paths.transfer_lock, flags.CLOSE_WRITE) as watch:
        while not ofd.try_lock(descriptor):  # looked at after the watch began: no closing goes unnoticed
            if process.wait(0):
                raise NotRunning(f"machine {paths.name!r} has ended")
            await wait_readable(watch.fileno(), process.pidfd)
            watch.read(timeout=0)


def _holder(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
