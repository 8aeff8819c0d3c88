"""Undoing in a guest what killed clients have left in it, by the records in `kvmctl.runtime.records`."""

from __future__ import annotations

import os
from contextlib import suppress

from kvmctl import files
from kvmctl.errors import AgentError
from kvmctl.guest.agent import Agent
from kvmctl.guest.command import run_captured
from kvmctl.guest.fsfreeze import thaw
from kvmctl.guest.shell import END_MARKED, SHELL
from kvmctl.guest.turn import Turn
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.records import FROZEN, busy, stems


async def settle(paths: MachinePaths, agent: Agent) -> None:
    """Undo in the guest what killed clients have left. Raises AgentError, DeadlineExceeded, StateError."""
    for stem in stems(paths):
        descriptor = _find(paths.leftover(stem))
        if descriptor is None:
            continue
        try:
            if ofd.try_lock(descriptor):  # and kept until it is done, so that nobody else does it too
                await _undo(agent, stem)
                with suppress(FileNotFoundError):
                    os.unlink(paths.leftover(stem))
        finally:
            os.close(descriptor)


def check_not_frozen(paths: MachinePaths) -> None:
    """Raises Busy where somebody who is there keeps the guest's file systems frozen, so that it can do nothing."""
    descriptor = _find(paths.leftover(FROZEN))
    if descriptor is None:
        return
    try:
        if ofd.is_locked(descriptor):
            raise busy(paths)
    finally:
        os.close(descriptor)


async def _undo(agent: Agent, stem: str) -> None:
    """What the guest refuses is not asked for again and again: it may have been restarted without its agent's shell."""
    try:
        if stem == FROZEN:
            await thaw(agent)
            return
        async with Turn(agent) as turn:
            await run_captured(turn, [SHELL, "-c", END_MARKED, "kvmctl", stem])
    except AgentError as error:
        if not error.error_class:
            raise


def _find(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.cannot("open", path, error) from error
