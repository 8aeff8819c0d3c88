"""Who has a disk image open: QEMU's refusal says that somebody does, never who."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from kvmctl.image import ofd

_WRITE_BYTE = 101
"""QEMU's ``RAW_LOCK_PERM_BASE`` (100) + ``BLK_PERM_WRITE``'s bit (1): locked by whoever writes (block/file-posix.c)."""
_NO_SHARED_WRITE_BYTE = 201
"""``RAW_LOCK_SHARED_BASE`` (200) + the same bit: locked by whoever lets nobody else write."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a file open; `name` is its machine's where the command line says so, else its own."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


def is_in_use(path: str, *, for_writing: bool) -> bool:
    """Whether a QEMU holds `path` in a way that forbids opening it. Raises OSError where it can't be read."""
    if not os.path.isfile(path):
        return False
    taken = ofd.is_path_locked(path, start=_NO_SHARED_WRITE_BYTE, length=1) if for_writing else False
    return taken or ofd.is_path_locked(path, start=_WRITE_BYTE, length=1)


def find_holders(path: str) -> list[Holder]:
    """The processes that have `path` open and that this user may look at."""
    try:
        wanted = os.stat(path)
    except OSError:
        return []
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _opens(process.open_files(), wanted):
                found.append(Holder(process.pid, _describe(process)))
    return found


def _opens(opened: Iterable[object], wanted: os.stat_result) -> bool:
    for file in opened:
        with suppress(OSError):
            status = os.stat(file.path)  # type: ignore[attr-defined]
            if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


def _describe(process: psutil.Process) -> str:
    words = process.cmdline()
    if "-name" in words[:-1]:
        return f"machine {words[words.index('-name') + 1].partition(',')[0].removeprefix('guest=')!r}"
    return str(process.name())
