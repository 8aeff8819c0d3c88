"""What the last run left, set aside while a start has yet to succeed, and there again where it fails.

Only renames within the run directory, in an order that tells whoever sweeps it what was going on, wherever a kill cut
it off: a run directory without a plan is that of a start or of one of these that was broken off. Only the standard
library here: whoever lists machines imports it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from kvmctl import files
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import made

_PLAN: Final = "plan.json"


def forget(paths: MachinePaths) -> None:
    """A start has succeeded: what it made stays, and what was before is not wanted any more. Raises StateError."""
    made.keep(paths)
    files.remove_tree(paths.before)


def set_aside(paths: MachinePaths) -> None:
    """Move what is in the run directory out of the way, for whoever has the lock and has had it `forget`.

    Raises StateError; it is to be put back then.
    """
    try:
        names = _names(paths)
        if not names:
            return
        files.make_private_dir(paths.before_part)
        for name in sorted(names, key=lambda name: name != _PLAN):  # the plan first
            os.rename(os.path.join(paths.run, name), os.path.join(paths.before_part, name))
        os.rename(paths.before_part, paths.before)
    except OSError as error:
        raise files.cannot("clear", paths.run, error) from error


def put_back(paths: MachinePaths) -> bool:
    """Have the run directory be what it was before the start, tether and all. Whether there was one. Raises
    StateError."""
    try:
        if os.path.isdir(paths.before):
            for name in _names(paths):
                _remove(os.path.join(paths.run, name))
            os.rename(paths.before, paths.before_part)
        if not os.path.isdir(paths.before_part):
            return False
        names = sorted(os.listdir(paths.before_part), key=lambda name: name == _PLAN)  # the plan last
        for name in names:
            if name == _PLAN:
                _unlink(paths.tether)  # from here on the missing plan says that this is not finished
            os.rename(os.path.join(paths.before_part, name), os.path.join(paths.run, name))
        _unlink(paths.tether)
        os.rmdir(paths.before_part)
    except OSError as error:
        raise files.cannot("restore", paths.run, error) from error
    return True


def _names(paths: MachinePaths) -> list[str]:
    """What is in the run directory, but for what tells of the start itself."""
    kept = {os.path.basename(path) for path in (paths.lock, paths.tether, paths.before, paths.before_part, paths.made)}
    return [name for name in os.listdir(paths.run) if name not in kept]


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        files.remove_tree(path)
    else:
        _unlink(path)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
