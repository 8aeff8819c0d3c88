"""What a start makes beside its run directory: on record there before it is made, and unmade by the record.

So it goes with a start that fails, and with one whose launcher was killed: whoever sweeps reads the same record. Only
the standard library here: sweeping is every command's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from functools import partial
from typing import Any, Final

from kvmctl import files
from kvmctl.errors import StateError
from kvmctl.image import ofd
from kvmctl.image.hold import Hold
from kvmctl.plan.paths import MachinePaths

_PARTIAL: Final = (".part", ".part.pub", ".tmp")
"""How the names end under which files are made; before that is the id of the process that makes them."""


class _Kind(StrEnum):
    """What became, or was about to become, of a path."""

    DIRECTORY = "directory"
    FILE = "file"
    """One of this machine's own, which was not there."""
    REPLACED = "replaced"
    """One that was there, as ``text`` where that is to be restored."""
    BEGUN = "begun"
    """An image that anybody may have: made under another name, and not yet there."""
    IMAGE = "image"
    """... and made, as ``stamp`` tells: about to be given its name."""


class Made:
    """The record of one start, which has the machine's lock."""

    def __init__(self, paths: MachinePaths, *, lock: int = -1) -> None:
        self._paths = paths
        self.inherited = (lock,) if lock >= 0 else ()
        """What programs that make something keep open: they are found by the lock, and ended, where they outlive us."""

    def directory(self, path: str) -> None:
        """Make a private directory and its missing parents. Raises StateError."""
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for directory in reversed(missing):
            self._write(_Kind.DIRECTORY, directory)
            files.make_private_dir(directory)

    def file(self, path: str) -> None:
        """A file of this machine's own is about to be made, which is not there. Raises StateError."""
        self._write(_Kind.FILE, path)

    def replaced(self, path: str, *, text: str | None = None) -> None:
        """A file that is there is about to be replaced; a `text` is what to restore. Raises StateError."""
        self._write(_Kind.REPLACED, path, text=text)

    def image(self, path: str) -> Hold:
        """An image is about to be made, which is not there: what its making is to heed. Raises StateError.

        It may be anybody's by the time it is unmade: only what was made here is, and only if nobody has used it since.
        """
        self._write(_Kind.BEGUN, path)
        return Hold(self.inherited, partial(self._has_been_made, path))

    def _has_been_made(self, path: str, part: str) -> None:
        self._write(_Kind.IMAGE, path, stamp=_stamp(part))

    def _write(self, kind: _Kind, path: str, **more: object) -> None:
        if f"{path}/".startswith((f"{self._paths.run}/", f"{self._paths.scratch or self._paths.run}/")):
            return  # it goes with its directory
        line = json.dumps({"kind": kind, "path": path, "pid": os.getpid(), **more}) + "\n"
        descriptor = files.open_append(self._paths.made)
        try:
            os.write(descriptor, line.encode())
        except OSError as error:
            raise files.cannot("write", self._paths.made, error) from error
        finally:
            os.close(descriptor)


def keep(paths: MachinePaths) -> None:
    """What was made stays. Raises StateError."""
    try:
        os.unlink(paths.made)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise files.cannot("remove", paths.made, error) from error


def unmake(paths: MachinePaths, *, was_held: bool) -> None:
    """Unmake what is on record; `was_held` says that the start has had its images in use until now. Raises StateError.

    What can't be removed is left: it must not keep the machine from ever starting again.
    """
    for entry in reversed([*_read(paths)]):
        with suppress(OSError, StateError):
            _unmake(entry, was_held=was_held)
    keep(paths)


def _read(paths: MachinePaths) -> Iterator[dict[str, Any]]:
    try:
        with open(paths.made, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise files.cannot("read", paths.made, error) from error
    for line in lines:
        with suppress(ValueError):  # cut off by a full disk
            yield json.loads(line)


def _unmake(entry: dict[str, Any], *, was_held: bool) -> None:
    path = entry["path"]
    if entry["kind"] == _Kind.DIRECTORY:
        os.rmdir(path)  # unless somebody has put something there
        return
    _remove_parts(path, pid=entry["pid"])
    match entry["kind"]:
        case _Kind.FILE:
            os.unlink(path)
        case _Kind.REPLACED if entry["text"] is not None:
            files.write_atomic(path, entry["text"].encode())
        case _Kind.IMAGE if not ofd.is_in_use(path, for_writing=True):
            found, stamp = _stamp(path), entry["stamp"]
            if found == stamp or (was_held and found[:2] == stamp[:2]):
                os.unlink(path)


def _remove_parts(path: str, *, pid: int) -> None:
    directory, name = os.path.split(path)
    for found in os.listdir(directory):
        if found.startswith(f"{name}.{pid}.") and found.endswith(_PARTIAL):
            os.unlink(os.path.join(directory, found))


def _stamp(path: str) -> list[int]:
    """Which file it is, and whether it has been written to."""
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
