"""What of a spec is in doubt, because it could not be read or contradicts itself, and what that says of the rest.

Where a key is wrong, its default stands in for it, so that the other problems of the spec are found as well. A problem
that may come of that alone is none that the user has: it is not told. May import the error tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import Problem

_RESTS_ON: Final[Mapping[str, frozenset[str]]] = {
    "boot": frozenset({"disks", "networks"}),
    "cpu": frozenset({"cpus"}),
    "credentials": frozenset({"guest"}),
    "guest": frozenset({"credentials", "disks", "networks", "shares"}),
    "shares": frozenset({"memory"}),
    "vnc": frozenset({"name"}),
}
"""The parts of a spec whose problems can come of what other parts say, besides those that they name."""
_ALONE: Final = frozenset({"cpu.model"})
"""Keys that are wrong or right by themselves, whatever else their tables say."""


def part_of(key: str) -> str:
    """The part of a spec that `key` is in: a key of the machine, or one element of a list, ``disks[0]``."""
    match = re.match(r"\w+(\[\d+\])?", key)
    return match[0] if match else ""


def _kind_of(part: str) -> str:
    return part.partition("[")[0]


@dataclass(frozen=True, slots=True)
class Doubt:
    """The `parts` of a spec that are in doubt; ``disks`` is the whole list, ``disks[0]`` one of it."""

    parts: frozenset[str] = frozenset()

    def __or__(self, keys: Iterable[str]) -> Doubt:
        """This doubt, and the parts that `keys` are in."""
        return Doubt(self.parts | {part_of(key) for key in keys})

    def covers(self, key: str) -> bool:
        """Whether what is at `key`, or what decides whether it is right, is in doubt."""
        if key in _ALONE:
            return False
        part = part_of(key)
        kind = _kind_of(part)
        rests_on = _RESTS_ON.get(kind, frozenset())
        return not self.parts.isdisjoint({part, kind}) or any(_kind_of(other) in rests_on for other in self.parts)

    def touches(self, problem: Problem) -> bool:
        """Whether `problem` may be there only because of what is in doubt."""
        told = f"{problem.message} {problem.allowed}"
        return self.covers(problem.key) or any(
            re.search(rf"(?<![\w.]){re.escape(part)}(?!\w)", told) for part in self.parts
        )


NONE: Final = Doubt()
"""No doubt: the spec says what it says."""
