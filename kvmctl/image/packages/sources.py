"""Packages to take files from, each read once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kvmctl.errors import AptError
from kvmctl.image.packages.apt import Apt
from kvmctl.image.packages.deb import Member, read_deb

KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-kvm", "linux-image-amd64")
"""Packages that stand for the newest kernel: Debian's for clouds, Ubuntu's for the same, Debian's for everything."""
_KERNEL = re.compile(r"linux-(image|modules)-")
_OF_A_VERSION = re.compile(r"linux-(image|modules)-([a-z]+-)?\d")
"""A package with something in it; ``linux-image-amd64`` only stands for one."""


class Sources:
    """The packages that are read from; `used` tells which, with their versions."""

    def __init__(self, apt: Apt, kernels: Sequence[str] = KERNELS) -> None:
        self._apt = apt
        self._kernels = kernels
        self._unpacked: dict[str, list[Member]] = {}

    @property
    def used(self) -> dict[str, str]:
        """The versions of the packages that something was read from."""
        return {name: self._apt.version(name) for name in sorted(self._unpacked)}

    def members(self, package: str) -> list[Member]:
        """What is in a package. Raises AptError."""
        if package not in self._unpacked:
            self._unpacked[package] = list(read_deb(self._apt.download(package)))
        return self._unpacked[package]

    def find_file(self, package: str, ending: str) -> bytes:
        """The file whose path ends so: distributions differ in what is under ``/usr``. Raises AptError."""
        for member in self.members(package):
            if f"/{member.name}".endswith(f"/{ending}") and member.target is None:
                return member.data
        raise AptError(f"package {package!r} has no {ending!r}")

    def kernel_packages(self) -> list[str]:
        """The newest kernel's packages; Ubuntu has the modules apart from the image. Raises AptError."""
        name = self._apt.find_candidate(self._kernels)
        if name is None:
            raise AptError(f"none of these packages is to be had: {', '.join(self._kernels)}")
        return kernel_packages(self._apt, name)

    def libraries(self, package: str) -> Iterator[Member]:
        """Members of the libraries' packages that `package` needs, those nearest to it first."""
        queue, seen = [package], {package}
        for name in queue:
            needs = [item for item in self._apt.depends(name) if item.startswith("lib") and item not in seen]
            seen.update(needs)
            queue += needs
            if name != package:
                yield from self.members(name)


def kernel_packages(apt: Apt, name: str) -> list[str]:
    """The packages with a kernel and its modules that `name` is, or stands for. Raises AptError."""
    found = [name]
    for package in found:
        found += [item for item in apt.depends(package) if _KERNEL.match(item) and item not in found]
    return [package for package in found if _OF_A_VERSION.match(package)] or found
