"""The event journal: QEMU writes its events to a file itself, so that they are there when nothing of ours runs.

QEMU's third monitor is on its stdin and stdout: stdin is a pipe that already holds the command that opens the
monitor, stdout is this file. Reading it needs no asyncio; following it is inotify, on the run directory, plus the
process's pidfd for its end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import files
from kvmctl.runtime.events import Event, parse_lines


class Tail:
    """The lines of a growing file, each handed out once, when it is whole. No file yet is an empty file."""

    def __init__(self, path: str, *, offset: int = 0) -> None:
        self._path = path
        self._offset = offset
        self._rest = b""

    def read(self) -> bytes:
        """What was written since the last call, to the byte. Raises StateError."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise files.cannot("read", self._path, error) from error
        self._offset += len(data)
        return data

    def lines(self) -> list[str]:
        """The whole lines written since the last call."""
        *whole, self._rest = (self._rest + self.read()).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def read_events(paths: MachinePaths) -> list[Event]:
    """Every event of the machine's present or last run. Raises StateError."""
    return parse_lines(Tail(paths.journal).lines())


def append_event(paths: MachinePaths, name: str, data: Mapping[str, Any]) -> None:
    """Write an event of kvmctl's own, in QEMU's form: what QEMU can't say itself, that it was killed."""
    seconds, fraction = divmod(time.time(), 1)
    stamp = {"seconds": int(seconds), "microseconds": int(fraction * 1e6)}
    line = json.dumps({"timestamp": stamp, "event": name, "data": dict(data)}) + "\n"
    descriptor = files.open_append(paths.journal)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
