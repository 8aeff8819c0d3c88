"""What the machines of a test are made from, as its author says it. The standard library only: it is read early."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

DEFAULT_SPEC: Final = "tiny"
"""The guest that ships with kvmctl: what there is without anything else."""
PATIENCE: Final = 480.0
"""Seconds for a machine to boot, to be waited for and to be frozen, unless somebody says otherwise: less than the ten
minutes after which a CI ends a job that prints nothing, and what is known of the machine with it."""
TEST_WORD: Final = "KVMCTL_TEST"
"""The environment variable that tells which test a process was started by."""
_OWN: Final = frozenset({"spec", "until", "run", "hostname", "patience"})
"""Keywords of the marker that are not keys of a spec."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A machine to be booted once and forked for every test."""

    spec: str | os.PathLike[str] = ""
    """The name of a machine, or the file of a spec; empty for that of ``--vm-spec``."""
    until: str = ""
    """What is waited for before it is frozen: ``agent`` (also where nothing is said), or ``console:REGEX`` …"""
    run: tuple[str, ...] = ()
    """Shell commands for the guest, run before it is frozen."""
    hostname: str = ""
    """What the guest of each fork is called."""
    patience: float | None = None
    """Seconds that it may take to boot, to be waited for and to be frozen; None for those of ``--vm-patience``."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the spec that are to be others than in its file; of a table, those that are given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", as_commands(self.run))  # a list, or one command, is as good

    def changed(self, words: Mapping[str, Any]) -> Self:
        """This one with what the marker `vm` or `vm_factory` was given: its own words, all others keys of the spec."""
        own = {name: value for name, value in words.items() if name in _OWN}
        keys = {name: value for name, value in words.items() if name not in _OWN}
        return replace(self, **own, keys=merged(self.keys, keys))


def as_commands(run: str | Iterable[str]) -> tuple[str, ...]:
    """One command or several, as several."""
    return (run,) if isinstance(run, str) else tuple(run)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with what is in `above`, tables key by key."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found
