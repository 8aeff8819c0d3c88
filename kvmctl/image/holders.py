"""Who has a disk image open, or listens on a port: a refusal says that somebody does, never who."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a file open; `name` is its machine's where the command line says so, else its own."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.name})"


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


def find_listener(port: int) -> Holder | None:
    """The process that listens on a TCP port, where this user may see it."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            local, pid = connection.laddr, connection.pid
            if connection.status == psutil.CONN_LISTEN and pid is not None and local and local.port == port:
                return Holder(pid, _describe(psutil.Process(pid)))
    return None
