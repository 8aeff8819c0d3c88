"""How far a copy has come, told to whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

OnProgress: TypeAlias = Callable[[int, int | None], None]
"""Takes the bytes that have been copied, and those that are to be, where that is known."""


class Progress:
    """Counts bytes."""

    def __init__(self, tell: OnProgress | None, total: int | None = None) -> None:
        self.total = total
        self.done = 0
        self._tell = tell

    def add(self, count: int) -> None:
        """So many more bytes have been copied."""
        self.done += count
        if self._tell is not None:
            self._tell(self.done, self.total)
