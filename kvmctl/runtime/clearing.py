"""Clearing away what a start or a run has left that nobody is at any more. Only the standard library here."""

from __future__ import annotations

import os
from signal import SIGKILL
from typing import Final

from kvmctl import files
from kvmctl.errors import DeadlineExceeded
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import aside, made
from kvmctl.runtime.helper_locks import find_helper
from kvmctl.runtime.process import Process

_REAP_SECONDS: Final = 5.0


def end(paths: MachinePaths, process: Process | None) -> None:
    """End `process`, who holds the machine's lock, and the helpers. Raises DeadlineExceeded."""
    if process is not None:
        end_process(process, f"QEMU of {paths.name!r}")
    # They end when QEMU does; one that is stopped or hangs would not.
    while (helper := find_helper(paths)) is not None:
        end_process(helper, f"a helper of {paths.name!r}")


def end_process(process: Process, what: str) -> None:
    """End `process`, and let go of it. Raises DeadlineExceeded."""
    with process:
        process.signal(SIGKILL)
        if not process.wait(_REAP_SECONDS):
            raise DeadlineExceeded(f"{what} (process {process.pid}) does not die")


def undo(paths: MachinePaths, *, was_held: bool) -> None:
    """Have all be as it was before the start; `was_held` as in `made.unmake`. Raises StateError."""
    made.unmake(paths, was_held=was_held)
    discard_scratch(paths)
    if not aside.put_back(paths):
        discard(paths)


def discard(paths: MachinePaths) -> None:
    """Remove the run directory and what goes with it. Raises StateError."""
    discard_scratch(paths)  # first: without a run directory nobody would look for it
    # Gone at once for everybody who looks; who is killed in between leaves a name that nobody looks at.
    directory, name = os.path.split(paths.run)
    trash = os.path.join(directory, f".{name}.trash")
    files.remove_tree(trash)
    try:
        os.rename(paths.run, trash)
    except FileNotFoundError:
        return
    except OSError as error:
        raise files.cannot("remove", paths.run, error) from error
    files.remove_tree(trash)


def discard_scratch(paths: MachinePaths) -> None:
    """Remove the disks of an ephemeral run. Raises StateError."""
    if paths.scratch:
        files.remove_tree(paths.scratch)
