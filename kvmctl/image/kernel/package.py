"""A kernel out of the distribution's packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import basename

from kvmctl.errors import AptError
from kvmctl.image.initramfs import modules
from kvmctl.image.initramfs.modules import Module
from kvmctl.image.packages.sources import Sources


@dataclass(frozen=True, slots=True)
class PackagedKernel:
    """A kernel: its image, its version (``uname -r``), the modules to take along, in loading order, and those it has
    built in, as its ``modules.builtin`` lists them."""

    image: bytes
    version: str
    modules: tuple[Module, ...]
    builtin: str


def read_kernel(sources: Sources, packages: Sequence[str], *, wanted: Sequence[str]) -> PackagedKernel:
    """The kernel in `packages`, with the modules `wanted` that it has, and those they need. Raises AptError."""
    members = [member for package in packages for member in sources.members(package)]
    images = [member for member in members if member.name.startswith("boot/vmlinuz-")]
    if len(images) != 1:
        raise AptError(f"{', '.join(map(repr, packages))} hold {len(images)} kernels, and one is wanted")
    files = {name: member for member in members if (name := modules.module_name(member.name))}
    listing = next((item.data.decode() for item in members if basename(item.name) == "modules.builtin"), "")

    def find(name: str) -> Module | None:
        return modules.parse_module(name, files[name].data) if name in files else None

    chosen = modules.closure(wanted, find, builtin=modules.builtin_modules(listing))
    return PackagedKernel(images[0].data, images[0].name.removeprefix("boot/vmlinuz-"), tuple(chosen), listing)
