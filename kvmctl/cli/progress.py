"""Progress on stderr: a bar that is drawn over and over on a terminal, a line as it begins and ends elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Final, Self

from kvmctl.cli import output

_REDRAW_SECONDS: Final = 0.1
_BAR: Final = 24


class Bar:
    """The progress of one thing, called `name`; a context manager, at whose end the bar is gone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_drawn = output.is_fancy(sys.stderr)
        self._told = ""
        self._began = self._drawn = 0.0
        self._first: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw("")

    def say(self, what: str) -> None:
        """Tell what is being done now, once however often it is said."""
        if what != self._told:
            self._draw("")
            output.say(f"{self._name}: {what}")
            self._told = what
            self._first = None

    def show(self, done: int, total: int | None) -> None:
        """Draw the bar at `done` of `total` bytes, not more often than an eye can follow."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._began, self._drawn = done, now, 0.0
        if self._is_drawn and (now - self._drawn >= _REDRAW_SECONDS or done == total):
            self._drawn = now
            self._draw(self._line(done, total, seconds=now - self._began))

    def _line(self, done: int, total: int | None, *, seconds: float) -> str:
        rate = (done - (self._first or 0)) / seconds if seconds > 1 else 0.0
        words = [f"{self._name} "]
        if total:
            filled = min(_BAR, _BAR * done // total)
            words.append(f"[{'#' * filled}{'.' * (_BAR - filled)}] {100 * done // total:3}%")
        words.append(output.size(done) + (f" of {output.size(total)}" if total else ""))
        if rate:
            words.append(f"{output.size(int(rate))}/s")
            if total:
                words.append(f"{output.duration((total - done) / rate)} left")
        return "  ".join(words)

    def _draw(self, line: str) -> None:
        if self._is_drawn:
            output.redraw(line[: shutil.get_terminal_size().columns - 1])
