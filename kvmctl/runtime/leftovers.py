"""What is to be undone in a guest, on record before it is done, so that a killed client's is undone by the next.

A record is a file that its maker holds locked: the lock goes with the process, whatever ends that. A record that is
there and is not locked is somebody's who was killed; the next command that talks to the guest carries it out.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from kvmctl.errors import AgentError, Busy
from kvmctl.guest.agent import Agent
from kvmctl.guest.command import run_captured
from kvmctl.guest.fsfreeze import thaw
from kvmctl.guest.shell import END_MARKED, SHELL
from kvmctl.guest.turn import Turn
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import files

FROZEN: Final = "frozen"
"""The record of frozen file systems; all others are of commands, by their marks."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A record of ours: what is to be undone should we be killed."""

    path: str

    def undone(self) -> None:
        """There is nothing to be undone any more."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)


@contextmanager
def record(paths: MachinePaths, stem: str) -> Iterator[Leftover]:
    """Put on record what is about to be done in the guest, while the context lasts.

    The record outlives the context unless it is `undone`, and is the next command's then. Raises Busy where somebody
    else has it, StateError.
    """
    path = paths.leftover(stem)
    files.make_private_dir(paths.leftovers)
    with ExitStack() as stack:
        # It gets its name when it is locked: nobody is to see it and take it for a dead one's.
        fresh = os.path.join(paths.leftovers, f"{os.getpid()}-{secrets.token_hex(4)}.new")
        try:
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            ofd.try_lock(descriptor)
            try:
                os.write(descriptor, json.dumps({"pid": os.getpid()}).encode())
                os.link(fresh, path)
            finally:
                os.unlink(fresh)
        except FileExistsError as error:
            raise busy(paths) from error
        except OSError as error:
            raise files.cannot("write", path, error) from error
        yield Leftover(path)


async def settle(paths: MachinePaths, agent: Agent) -> None:
    """Undo in the guest what killed clients have left. Raises AgentError, DeadlineExceeded, StateError."""
    for stem in _stems(paths):
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


def _stems(paths: MachinePaths) -> list[str]:
    """What is on record, frozen file systems first: a guest can do nothing else before they are thawed."""
    try:
        names = os.listdir(paths.leftovers)
    except FileNotFoundError:
        return []
    stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return sorted(stems, key=lambda stem: stem != FROZEN)


def _find(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.cannot("open", path, error) from error


def busy(paths: MachinePaths) -> Busy:
    """The error for file systems that somebody keeps frozen."""
    holder = _read_holder(paths.leftover(FROZEN))
    return Busy(
        f"the file systems of the guest of {paths.name!r} are frozen" + (f" by process {holder}" if holder else ""),
        hint=f"They are thawed when it ends: kill {holder}" if holder else "",
        holder=holder,
    )


def _read_holder(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            found: Any = json.loads(file.read(256))
    except (OSError, ValueError):
        return None
    pid = found.get("pid") if isinstance(found, dict) else None
    return pid if isinstance(pid, int) else None
