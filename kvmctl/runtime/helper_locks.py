"""Whether a machine's helper programs live, told as for the machine itself: by the locks they hold.

Only the standard library here: clearing away what a dead launcher left goes through.
"""

from __future__ import annotations

import os

from kvmctl.image import ofd
from kvmctl.plan.paths import HELPER_LOCK, MachinePaths
from kvmctl.runtime.process import Process, find_holder


def find_helper(paths: MachinePaths) -> Process | None:
    """A process that is one of the machine's helpers, or a part of one; None where there is none to be seen."""
    for lock in _locks(paths):
        if ofd.is_path_locked(lock) and (holder := find_holder(lock, tether=paths.tether, hint=None)) is not None:
            return holder
    return None


def has_helpers(paths: MachinePaths) -> bool:
    """Whether the machine's run has or had helpers."""
    return bool(_locks(paths))


def _locks(paths: MachinePaths) -> list[str]:
    try:
        return [os.path.join(paths.run, name) for name in os.listdir(paths.run) if name.endswith(HELPER_LOCK)]
    except OSError:
        return []
