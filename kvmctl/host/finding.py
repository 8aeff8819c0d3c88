"""What a diagnosis says: one finding after another, each with what to do about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "note", "warning", "problem"]
"""``ok``: works. ``note``: good to know. ``warning``: something is slower or missing, and can be helped. ``problem``:
machines can't run until it is solved."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about this host. `id` is stable: the subject, a dot, and what was found."""

    id: str
    level: Level
    summary: str
    fix: str = ""
    """What to do, mostly a command; empty when there is nothing to do."""

    @property
    def subject(self) -> str:
        """``kvm``, ``qemu``, ``memory``, ...: the first part of the id."""
        return self.id.partition(".")[0]
