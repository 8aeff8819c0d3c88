"""The initramfs of a machine that is made of its host: our init, and the kernel modules it is to load. Pure."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from kvmctl.image.initramfs.cpio import Archive
from kvmctl.image.initramfs.modules import Module, canonical, closure

_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Modules:
    """Modules by what they are for, and what is lacking."""

    groups: Mapping[str, tuple[Module, ...]]
    """By group, in the order in which they can be loaded."""
    missing: Mapping[str, tuple[str, ...]]
    """By group, those that the kernel neither has nor has built in; only groups that lack some."""


def choose(
    groups: Mapping[str, Sequence[str]],
    find: Callable[[str], Module | None],
    *,
    builtin: AbstractSet[str] | None,
) -> Modules:
    """The modules that `groups` name, and all they need. Where it is not known what is `builtin` (None), nothing is
    missing: the guest will tell."""
    chosen = {group: tuple(closure(wanted, find, builtin=builtin or frozenset())) for group, wanted in groups.items()}
    missing: dict[str, tuple[str, ...]] = {}
    for group, wanted in groups.items():
        known = {module.name for module in chosen[group]} | (builtin or frozenset())
        lacks = tuple(name for name in wanted if canonical(name) not in known)
        if lacks and builtin is not None:
            missing[group] = lacks
    return Modules(chosen, missing)


def pack(init: bytes, modules: Modules) -> bytes:
    """The initramfs, compressed. The same parts give the same bytes."""
    archive = Archive()
    archive.add_character_device("dev/console", mode=0o600, number=(5, 1))
    archive.add_file("init", init, mode=0o755)
    there: set[str] = set()
    lines: list[str] = []
    for group, members in modules.groups.items():
        for module in members:
            if module.name not in there:
                archive.add_file(f"modules/{module.name}.ko", module.data)
                there.add(module.name)
            lines.append(f"{group} {module.name}.ko\n")
    archive.add_file("modules/list", "".join(lines).encode())
    return gzip.compress(archive.finish(), _LEVEL, mtime=0)
