"""The paths in a template's directory; where that is, is said by ``kvmctl.plan.paths``."""

from __future__ import annotations

from posixpath import join
from typing import NamedTuple


class TemplatePaths(NamedTuple):
    """The files of one template: none of them is written once it is made."""

    name: str
    directory: str

    @property
    def record(self) -> str:
        """What it was made from, the plan of its forks, and the digests of its files."""
        return join(self.directory, "template.json")

    @property
    def lock(self) -> str:
        """Locked by whoever makes or removes it, and shared by every fork for as long as that lives."""
        return join(self.directory, "lock")

    @property
    def verified(self) -> str:
        """The stamps that its files had when they last agreed with their digests."""
        return join(self.directory, "verified.json")

    @property
    def memory(self) -> str:
        """The guest's memory: every fork maps it, copy-on-write."""
        return join(self.directory, "memory")

    @property
    def device_state(self) -> str:
        """The devices and CPUs, as QEMU's migration stream."""
        return join(self.directory, "device-state")

    @property
    def kernel(self) -> str:
        """What stands for the kernel in forks that are given one by QEMU."""
        return join(self.directory, "kernel")

    @property
    def initrd(self) -> str:
        """The initial RAM disk of those, with the kernel behind it: every fork maps it."""
        return join(self.directory, "initrd")

    def layer(self, node: str) -> str:
        """The writable disk `node` as it was frozen, if it is one on top of the user's image."""
        return join(self.directory, "disks", f"{node}.qcow2")

    def blank(self, node: str) -> str:
        """An empty overlay on the frozen disk `node`, of which every fork has a copy."""
        return join(self.directory, "blanks", f"{node}.qcow2")
