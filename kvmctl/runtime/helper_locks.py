"""Whether a machine's helper programs live, told as for the machine itself: by the locks they hold.

Only the standard library here: clearing away what a dead launcher left goes through.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from kvmctl import files
from kvmctl.image import ofd
from kvmctl.plan.paths import HELPER_LOCK, MachinePaths
from kvmctl.runtime.process import Process, find_holder

if TYPE_CHECKING:
    from kvmctl.plan.model import Plan  # not for `list`, which never makes one

_LOG_TAIL = 4096


class HelperInfo(NamedTuple):
    """A helper program of a machine that runs, or ran."""

    id: str
    program: str
    key: str
    """The spec's key that wanted it."""
    is_alive: bool
    log: str
    """The file that has what it printed."""
    last_words: str
    """The last line of that."""


def inspect_helpers(plan: Plan) -> tuple[HelperInfo, ...]:
    """What became of the helpers that a machine was started with. Raises StateError."""
    return tuple(
        HelperInfo(
            id=helper.id,
            program=helper.program,
            key=helper.key,
            is_alive=ofd.is_path_locked(helper.lock),
            log=helper.log,
            last_words=files.read_tail(helper.log, limit=_LOG_TAIL).strip().rpartition("\n")[2],
        )
        for helper in plan.helpers
    )


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
