"""What the firmware starts: a kernel given directly, or devices in an order.

An order is always compiled to boot indexes of devices, which BIOS and UEFI both obey; QEMU's ``-boot order=`` is for
BIOS alone and knows classes of devices only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan.model import Input
from kvmctl.plan.option import Option, Parameter, keyval, text
from kvmctl.plan.paths import BUILTIN_TINY, builtin_guest
from kvmctl.spec.context import Lowered
from kvmctl.spec.devices import Devices
from kvmctl.spec.hostpath import HostPath, path_or
from kvmctl.spec.model import Bool, Model, Str, why
from kvmctl.spec.units import Line
from kvmctl.spec.words import did_you_mean

CLASSES: Final = ("disk", "cdrom", "floppy", "network")
DEFAULT_ORDER: Final = ("disk", "cdrom", "network")


class Boot(Model):
    """What is started, and in which order devices are tried."""

    kernel: Annotated[str, BeforeValidator(path_or(BUILTIN_TINY))] | None = Field(
        default=None, description="A kernel on the host, started directly; 'builtin:tiny' is the test guest in kvmctl."
    )
    initrd: HostPath | None = Field(default=None, description="The kernel's initial RAM disk.")
    cmdline: Line | None = Field(default=None, max_length=2047, description="The kernel's command line.")
    order: tuple[Str, ...] | None = Field(
        default=None,
        description="What to try, first to last: 'disk', 'cdrom', 'floppy', 'network' (all of that kind), or ids of "
        "devices. Unless given: disks, then CD drives, then networks.",
    )
    menu: Bool = Field(default=False, description="Offer the firmware's boot menu.")

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        for key in ("initrd", "cmdline"):
            if getattr(self, key) is not None and self.kernel is None:
                yield Problem(key, "belongs to a kernel, and there is none", allowed="kernel = ...")
        for item, count in Counter(self.order or ()).items():
            if count > 1:
                yield Problem("order", "names something twice", f"'{item}'", "each once")


def lower(boot: Boot) -> Lowered:
    """``-kernel``, ``-initrd``, ``-append`` and ``-boot``."""
    return Lowered(
        options=tuple(_options(boot)),
        inputs=tuple(
            Input(path, f"boot.{key}")
            for key, path in (("kernel", boot.kernel and kernel_path(boot.kernel)), ("initrd", boot.initrd))
            if path
        ),
    )


def kernel_path(kernel: str) -> str:
    """The file of a kernel, the shipped one by its name."""
    return builtin_guest() if kernel == BUILTIN_TINY else kernel


def _options(boot: Boot) -> Iterator[Option]:
    menu = why(boot, "menu", "boot.menu", default="a machine does not wait for a key")
    yield keyval("boot", None, menu=boot.menu, why=menu)
    if boot.kernel is not None:
        yield text("kernel", kernel_path(boot.kernel), why="boot.kernel")
    if boot.initrd is not None:
        yield text("initrd", boot.initrd, why="boot.initrd")
    if boot.cmdline is not None:
        yield text("append", boot.cmdline, why="boot.cmdline")


def order_problems(boot: Boot, devices: Devices) -> Iterator[Problem]:
    """What is wrong with the order, and with the indexes that devices give themselves."""
    given = {key: index for key, (_, _, index) in _bootable(devices).items() if index is not None}
    for key, index in given.items():
        twins = [other for other, its in given.items() if its == index and other != key]
        if twins:
            yield Problem(f"{key}.boot_index", f"{twins[0]} has it too", str(index), "another one")
        if boot.order is not None:
            yield Problem(f"{key}.boot_index", "boot.order says the order already", str(index), "one of the two")
    yield from _floppy_problems(devices)
    ids = [name for name, _, _ in _bootable(devices).values()]
    for position, item in enumerate(boot.order or ()):
        if item not in (*CLASSES, *ids):
            allowed = did_you_mean(item, (*CLASSES, *ids)) + ", ".join(f"'{word}'" for word in (*CLASSES, *ids))
            yield Problem(f"boot.order[{position}]", "is no kind of device and no device's id", f"'{item}'", allowed)


def _floppy_problems(devices: Devices) -> Iterator[Problem]:
    floppies = [index for index, disk in enumerate(devices.disks) if disk.device == "floppy"]
    for index in floppies[1:]:
        place = devices.disks[index].boot_index
        if place is not None:
            message = f"a PC boots from its first floppy drive, disks[{floppies[0]}]"
            yield Problem(f"disks[{index}].boot_index", message, str(place), "leave it out")


def boot_indexes(boot: Boot, devices: Devices) -> Mapping[str, Parameter]:
    """The boot index of every device that gets one, by its key in the spec."""
    bootable = _bootable(devices)
    given = {key: index for key, (_, _, index) in bootable.items() if index is not None}
    if given:
        return {key: Parameter(index, f"{key}.boot_index") for key, index in given.items()}
    if boot.order is None and boot.kernel is not None:
        return {}
    order = boot.order if boot.order is not None else DEFAULT_ORDER
    reason = why(boot, "order", "boot.order", default="disks, then CD drives, then networks")
    return {key: Parameter(place, reason) for place, key in enumerate(_in_order(order, bootable), start=1)}


def _in_order(order: Sequence[str], bootable: Mapping[str, tuple[str, str, int | None]]) -> list[str]:
    """Keys in `order`, each once: what is named by its id is not tried again with its kind."""
    named = [[key for key, (name, _, _) in bootable.items() if name == item] for item in order]
    by_id = {key for keys in named for key in keys}
    keys: list[str] = []
    for item, direct in zip(order, named, strict=True):
        keys += direct or [key for key, (_, kind, _) in bootable.items() if kind == item and key not in by_id]
    return keys


def _bootable(devices: Devices) -> dict[str, tuple[str, str, int | None]]:
    """Id, kind and given boot index of every device that can be booted from, by its key."""
    floppies = [index for index, disk in enumerate(devices.disks) if disk.device == "floppy"]
    disks = {
        f"disks[{index}]": (disk.device_id(index), str(disk.device), disk.boot_index)
        for index, disk in enumerate(devices.disks)
        if index not in floppies[1:]  # a PC boots from drive A only
    }
    networks = {
        f"networks[{index}]": (network.device_id(index), "network", network.boot_index)
        for index, network in enumerate(devices.networks)
    }
    return disks | networks
