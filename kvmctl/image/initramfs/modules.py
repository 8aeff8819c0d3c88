"""Kernel modules: which ones a list of wanted ones comes to, and the index files that modprobe reads.

A kernel's package has no ``modules.dep`` (depmod makes it when the package is installed), so dependencies and aliases
are read from the modules themselves: the section ``.modinfo`` is a list of ``key=value``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from posixpath import basename

from kvmctl.image.compression import expand
from kvmctl.image.initramfs.elf import find_section

_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


@dataclass(frozen=True, slots=True)
class Module:
    """A module, decompressed, and what it says of itself."""

    name: str
    data: bytes
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


def module_name(path: str) -> str | None:
    """The name of the module in the file `path`; None for other files."""
    file = basename(path)
    for suffix in _SUFFIXES:
        if file.endswith(suffix):
            return canonical(file.removesuffix(suffix))
    return None


def canonical(name: str) -> str:
    """A module's name as the kernel has it: files may have ``-`` for ``_``."""
    return name.replace("-", "_")


def builtin_modules(listing: str) -> frozenset[str]:
    """The modules that a ``modules.builtin`` file names."""
    names = (module_name(line.strip()) for line in listing.splitlines())
    return frozenset(name for name in names if name)


def parse_module(name: str, data: bytes) -> Module:
    """A module from the bytes of its file."""
    elf = expand(data)
    info: dict[str, list[str]] = {}
    for item in find_section(elf, ".modinfo").split(b"\0"):
        key, _, value = item.decode(errors="replace").partition("=")
        info.setdefault(key, []).append(value)
    depends = tuple(canonical(item) for item in ",".join(info.get("depends", ())).split(",") if item)
    return Module(name, elf, depends, tuple(info.get("alias", ())))


def closure(wanted: Iterable[str], find: Callable[[str], Module | None], *, builtin: AbstractSet[str]) -> list[Module]:
    """The wanted modules and all they depend on, in an order in which they can be loaded.

    What this kernel neither has nor has built in is left out: kernels differ in what they offer.
    """
    order: dict[str, Module] = {}

    def visit(name: str) -> None:
        module = None if name in order or name in builtin else find(name)
        if module is None:
            return
        for dependency in module.depends:
            visit(dependency)
        order[name] = module

    for name in wanted:
        visit(canonical(name))
    return list(order.values())


def dependency_index(modules: Sequence[Module], path: Callable[[str], str]) -> str:
    """``modules.dep`` for `modules`, in loading order: every module's file, and the files it needs, last first."""
    by_name = {module.name: module for module in modules}
    lines = []
    for module in modules:
        needs = [path(item.name) for item in _needs(module, by_name)]
        lines.append(f"{path(module.name)}:{''.join(f' {need}' for need in needs)}\n")
    return "".join(lines)


def alias_index(modules: Sequence[Module]) -> str:
    """``modules.alias``: which module a piece of hardware asks for."""
    return "".join(f"alias {alias} {module.name}\n" for module in modules for alias in module.aliases)


def _needs(module: Module, by_name: Mapping[str, Module]) -> list[Module]:
    found: dict[str, Module] = {}

    def visit(item: Module) -> None:
        for name in item.depends:
            if name in by_name and name not in found:
                visit(by_name[name])
                found[name] = by_name[name]

    visit(module)
    return list(reversed(found.values()))
