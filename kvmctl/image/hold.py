"""What whoever has an image made may want of its making. Only the standard library: every command imports it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


def _ignore(_: str) -> None:
    """Nobody wants to know."""


class Hold(NamedTuple):
    """A hold on the program that makes an image, and on what it makes."""

    inherited: tuple[int, ...] = ()
    """Descriptors that the program keeps open: by a lock among them it is found, should it outlive who started it."""
    on_made: Callable[[str], None] = _ignore
    """Called with the file that was made, before it is given its name."""


NO_HOLD = Hold()
