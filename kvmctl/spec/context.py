"""What a section of a spec is lowered with, and what it is lowered to.

Lowering is pure: it is given a `Context` and returns a `Lowered`; results are joined, never filled in. A device does
not choose its own address: it says which kind of seat it takes (`Seat`), and ``kvmctl.spec.place`` hands those out.
May import the plan's values and the error tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import chain
from typing import Final, Literal, TypeAlias

from kvmctl.errors import Problem
from kvmctl.plan.facts import HostFacts, QemuFacts
from kvmctl.plan.helper import Helper
from kvmctl.plan.model import Console, Disk, FdSource, Input, Network, Port, QmpStep, Step
from kvmctl.plan.option import Option, Parameter, Value
from kvmctl.plan.paths import MachinePaths
from kvmctl.plan.share import InputDirectory, SharedDirectory

Platform: TypeAlias = Literal["q35", "pc", "microvm"]


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a section may look at besides itself."""

    name: str
    platform: Platform
    machine_type: str
    accel: Literal["kvm", "tcg"]
    accel_reason: str
    host: HostFacts
    qemu: QemuFacts
    paths: MachinePaths
    acpi: bool
    cpus: int
    boot_indexes: Mapping[str, Parameter]
    """Boot index, and what gives it, by the key of the device, ``disks[0]``."""
    has_vnc: bool
    """Somebody can look at a screen."""
    has_inputs: bool
    """The spec says which input devices there are."""
    has_serial: bool
    """There is a serial port, so the first of them is the console."""
    agent_on_serial: bool
    """The agent's channel is COM2."""
    private_by: str = ""
    """The key that keeps the guest's memory private; empty where other processes may be let map it."""
    mapped_for: str = ""
    """The key of what has another process map the guest's memory."""

    def virtio(self, kind: str) -> str:
        """The driver of a virtio device here: ``virtio-blk-pci``, or ``virtio-blk-device`` where there is no PCI."""
        return f"{kind}-device" if self.platform == "microvm" else f"{kind}-pci"


@dataclass(frozen=True, slots=True)
class At:
    """Where in the spec a device stands, and why it is there."""

    key: str
    """``disks[0]``, ``balloon``."""
    index: int
    why: str
    """The key when it was written, else ``default: `` and the reason."""


class Seat(StrEnum):
    """The kind of place a device takes, in words for several. Each platform's are laid out in ``kvmctl.spec.place``."""

    VIDEO = "slots for graphics"
    NETWORK = "slots for networks"
    DISK = "slots for disks"
    SCSI = "slots for SCSI controllers"
    AHCI = "slots for SATA controllers"
    USB = "slots for USB controllers"
    CHANNELS = "slots for virtio-serial"
    BALLOON = "slots for balloons"
    RNG = "slots for random number generators"
    WATCHDOG = "slots for watchdogs"
    PANIC = "slots for panic devices"
    VSOCK = "slots for vsock devices"
    SHARE = "slots for shared directories"
    INPUT = "slots for input devices"
    ISA = "places on the ISA bus"
    SATA_PORT = "SATA ports"
    IDE_PORT = "IDE ports"
    USB_PORT = "USB ports"
    SCSI_TARGET = "SCSI targets"
    FLOPPY_DRIVE = "floppy drives"
    CHANNEL_PORT = "virtio-serial ports"


@dataclass(frozen=True, slots=True)
class Part:
    """A ``-device`` that still wants its address. `key` is the spec's, for errors; `on` the bus of seats that are one
    controller's among several."""

    seat: Seat
    body: Mapping[str, Value]
    key: str
    why: str
    on: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why single properties are there, where that is another reason than the device's."""

    @property
    def driver(self) -> str:
        """The device type."""
        return str(self.body["driver"])

    @property
    def id(self) -> str:
        """The device's id; empty for the few that have none."""
        return str(self.body.get("id", ""))


@dataclass(frozen=True, slots=True)
class Lowered:
    """What a section comes to. All tuples, so that joining is concatenation."""

    options: tuple[Option, ...] = ()
    shared: tuple[Option | Part, ...] = ()
    """What several may ask for and exists once, by its id: controllers, I/O threads."""
    parts: tuple[Part, ...] = ()
    machine: tuple[tuple[str, Parameter], ...] = ()
    """Properties for ``-machine``."""
    fds: tuple[FdSource, ...] = ()
    helpers: tuple[Helper, ...] = ()
    steps: tuple[Step, ...] = ()
    inputs: tuple[Input | InputDirectory, ...] = ()
    ports: tuple[Port, ...] = ()
    before_run: tuple[QmpStep, ...] = ()
    consoles: tuple[Console, ...] = ()
    disks: tuple[Disk, ...] = ()
    networks: tuple[Network, ...] = ()
    shares: tuple[SharedDirectory, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def __add__(self, other: Lowered) -> Lowered:
        return join((self, other))


def join(items: Iterable[Lowered]) -> Lowered:
    """All of `items` in order."""
    results = tuple(items)
    return Lowered(*(tuple(chain.from_iterable(getattr(one, name) for one in results)) for name in _FIELDS))


_FIELDS: Final = tuple(item.name for item in fields(Lowered))
