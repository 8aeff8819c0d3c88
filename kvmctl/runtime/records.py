"""What is to be undone in a guest, on record before it is done; `kvmctl.runtime.leftovers` does it.

A record is a file that its maker holds locked: the lock goes with the process, whatever ends that. A record that is
there and is not locked is somebody's who was killed; the next command that talks to the guest carries it out. Nothing
here needs asyncio.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, NamedTuple

from kvmctl import files
from kvmctl.errors import AgentError, Busy, DeadlineExceeded
from kvmctl.guest.words import make_mark
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths

FROZEN: Final = "frozen"
"""The record of frozen file systems; all others are of commands, by their marks."""


class Leftover(NamedTuple):
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
        fresh = os.path.join(paths.leftovers, f"{os.getpid()}-{os.urandom(4).hex()}.new")
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


@contextmanager
def marked(paths: MachinePaths) -> Iterator[str]:
    """A mark for what is started in the guest, on record, so that the next command can end it should we not."""
    mark = make_mark()
    with record(paths, mark) as found:
        try:
            yield mark
        except (AgentError, DeadlineExceeded):
            raise  # an agent that has just been lost could hardly be told to end it
        except BaseException:
            found.undone()
            raise
        found.undone()


def stems(paths: MachinePaths) -> list[str]:
    """What is on record, frozen file systems first: a guest can do nothing else before they are thawed."""
    try:
        names = os.listdir(paths.leftovers)
    except FileNotFoundError:
        return []
    stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return sorted(stems, key=lambda stem: stem != FROZEN)


def has_loose(paths: MachinePaths) -> bool:
    """Whether something is to be undone, or file systems are frozen. Raises OSError."""
    return any(stem == FROZEN or not ofd.is_path_locked(paths.leftover(stem)) for stem in stems(paths))


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
