"""The event journal: QEMU writes its events to a file itself, so that they are there when nothing of ours runs.

QEMU's third monitor is on its stdin and stdout: stdin is a pipe that already holds the command that opens the
monitor, stdout is this file. Reading it needs no asyncio; following it is inotify, on the run directory, plus the
process's pidfd for its end. The next run of a machine has a new file under the same name, so whoever means this run
keeps its file open.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from kvmctl import files
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.events import Event, parse_lines

_PIECE = 1 << 20


class Tail:
    """What is added to a growing file, each byte handed out once. No file yet is an empty file.

    The file stays open once it was there: another that takes its name is not the one that was begun. Close it, or use
    it as a context manager.
    """

    def __init__(self, path: str, *, offset: int = 0) -> None:
        self._path = path
        self._offset = offset
        self._descriptor = -1
        self._rest = b""

    def pieces(self) -> Iterator[bytes]:
        """What was written since the last call, in pieces of at most a MiB. Raises StateError."""
        while data := self._read():
            self._offset += len(data)
            yield data

    def lines(self) -> list[str]:
        """The whole lines written since the last call. Raises StateError."""
        found: list[str] = []
        for piece in self.pieces():
            *whole, self._rest = (self._rest + piece).split(b"\n")
            found += [line.decode(errors="replace") for line in whole]
        return found

    def _read(self) -> bytes:
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._descriptor, _PIECE, self._offset)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise files.cannot("read", self._path, error) from error

    def close(self) -> None:
        """Stop reading."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Journal:
    """The journal of one run, kept open: whatever becomes of its name, this is the run that was looked at."""

    def __init__(self, paths: MachinePaths) -> None:
        """Raises StateError. A journal that is not there is an empty one."""
        try:
            self._descriptor = os.open(paths.journal, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._descriptor = -1
        except OSError as error:
            raise files.cannot("open", paths.journal, error) from error
        self._path = paths.journal

    def events(self) -> list[Event]:
        """Every event of the run so far. Raises StateError."""
        if self._descriptor < 0:
            return []
        with Tail(f"/proc/self/fd/{self._descriptor}") as tail:
            return parse_lines(tail.lines())

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        """Write an event of kvmctl's own, in QEMU's form: what QEMU can't say itself, that it was killed.

        A note that can't be written, on a disk that is full, keeps nobody from what it is about.
        """
        seconds, fraction = divmod(time.time(), 1)
        stamp = {"seconds": int(seconds), "microseconds": int(fraction * 1e6)}
        line = json.dumps({"timestamp": stamp, "event": name, "data": dict(data)}) + "\n"
        if self._descriptor >= 0:
            with suppress(OSError):
                os.write(self._descriptor, line.encode())

    def modified(self) -> float | None:
        """When it was last written, seconds since the epoch; None where there is none."""
        return os.fstat(self._descriptor).st_mtime if self._descriptor >= 0 else None

    def has_name(self) -> bool:
        """Whether it is still there, and not the journal of a run that has been cleared away or set aside."""
        if self._descriptor < 0:
            return False
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))
        return False

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(paths: MachinePaths) -> list[Event]:
    """Every event of the machine's present or last run. Raises StateError."""
    with Tail(paths.journal) as tail:
        return parse_lines(tail.lines())
