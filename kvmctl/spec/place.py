"""Where devices sit: the layout of each platform's buses, and the pass that gives every device its address.

An address is a function of a device's role and its index among its likes, not of what else the machine has: adding a
disk never renames a network interface in the guest, and a machine compiled again finds its devices where they were.

* q35: what can be unplugged while running sits on a ``pcie-root-port`` of its own; fixed devices sit on ``pcie.0``.
  A few root ports are spare, for plugging.
* pc: everything on ``pci.0``, whose slots can all be plugged while running.
* microvm: virtio devices on its virtio-mmio buses; there is no PCI and no plugging.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from kvmctl.errors import Problem
from kvmctl.plan.option import Option, Value, jsonopt
from kvmctl.spec.context import Part, Platform, Seat

PORTS_PER_SLOT: Final = 8
MMIO_BUSES: Final = 24
"""Virtio buses of a microvm (hw/i386/microvm.c)."""
MMIO_BUSES_WITHOUT_ACPI: Final = 8
"""Without ACPI it has one I/O APIC, whose interrupts are soon used up."""

_Q35_PORTS: Final[Mapping[Seat, range]] = {
    Seat.NETWORK: range(0x02, 0x04),
    Seat.DISK: range(0x04, 0x08),
    Seat.SHARE: range(0x0C, 0x0E),
}
"""Slots of pcie.0 that hold root ports, eight a slot."""
_Q35_SPARE: Final = range(0x08, 0x0C)
_Q35_FIXED: Final[Mapping[Seat, range]] = {
    Seat.VIDEO: range(0x01, 0x02),
    Seat.SCSI: range(0x10, 0x14),
    Seat.USB: range(0x14, 0x15),
    Seat.CHANNELS: range(0x15, 0x16),
    Seat.BALLOON: range(0x16, 0x17),
    Seat.RNG: range(0x17, 0x18),
    Seat.WATCHDOG: range(0x18, 0x19),
    Seat.PANIC: range(0x19, 0x1A),
    Seat.VSOCK: range(0x1A, 0x1B),
    Seat.INPUT: range(0x1B, 0x1F),
}
_PC_FIXED: Final[Mapping[Seat, range]] = {
    Seat.VIDEO: range(0x02, 0x03),
    Seat.NETWORK: range(0x03, 0x0B),
    Seat.DISK: range(0x0B, 0x13),
    Seat.SCSI: range(0x13, 0x15),
    Seat.AHCI: range(0x15, 0x16),
    Seat.USB: range(0x16, 0x17),
    Seat.CHANNELS: range(0x17, 0x18),
    Seat.BALLOON: range(0x18, 0x19),
    Seat.RNG: range(0x19, 0x1A),
    Seat.WATCHDOG: range(0x1A, 0x1B),
    Seat.PANIC: range(0x1B, 0x1C),
    Seat.VSOCK: range(0x1C, 0x1D),
    Seat.INPUT: range(0x1D, 0x1F),
}
_PC_SHARES: Final = 0x1F
"""The one slot of a PC that is left for shares, which are its functions."""
_MMIO: Final = (
    Seat.NETWORK,
    Seat.DISK,
    Seat.SCSI,
    Seat.CHANNELS,
    Seat.BALLOON,
    Seat.RNG,
    Seat.VSOCK,
    Seat.VIDEO,
    Seat.INPUT,
    Seat.SHARE,
)
"""What sits on a virtio bus, in the order in which buses are given out."""
_DRIVES: Final = frozenset({Seat.DISK, Seat.IDE_PORT, Seat.SATA_PORT})
"""Places of drives, of which there are more on the SCSI bus."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A device's address; `port` is the root port made for it."""

    address: Mapping[str, Value]
    port: tuple[int, int] | None = None
    """Slot and function on pcie.0."""


def place(parts: Sequence[Part], *, platform: Platform, acpi: bool) -> tuple[tuple[Option, ...], tuple[Problem, ...]]:
    """The devices as options with their addresses, root ports first, and what found no place."""
    buses = MMIO_BUSES if acpi else MMIO_BUSES_WITHOUT_ACPI
    find = _seats(parts, platform, buses=buses)
    taken: Counter[tuple[Seat, str]] = Counter()
    ports: list[Option] = []
    devices: list[Option] = []
    problems: list[Problem] = []
    for part in parts:
        seat = (part.seat, part.on)
        found = find(part, taken[seat])
        if found is None:
            problems.append(_no_place(part, platform, taken=taken[seat], buses=buses))
            continue
        taken[seat] += 1
        if found.port is not None:
            ports.append(_root_port(f"{part.id}-port", *found.port, why=part.why))
        devices.append(jsonopt("device", {**part.body, **found.address}, why=part.why, reasons=part.reasons))
    return (*ports, *devices), tuple(problems)


def spare_ports(count: int, *, why: str) -> tuple[Option, ...]:
    """Root ports that hold nothing yet, ``spare0`` and on: what is plugged into a running q35 goes there."""
    places = (divmod(index, PORTS_PER_SLOT) for index in range(count))
    return tuple(
        _root_port(f"spare{index}", _Q35_SPARE[slot], function, why=why)
        for index, (slot, function) in enumerate(places)
    )


def _root_port(port_id: str, slot: int, function: int, *, why: str) -> Option:
    body: dict[str, Value] = {"driver": "pcie-root-port", "id": port_id, "bus": "pcie.0"}
    # Chassis numbers must be unique in the machine; the address is, so it serves.
    body |= {"addr": f"{slot:#x}.{function:#x}", "chassis": slot * PORTS_PER_SLOT + function}
    if function == 0:
        body["multifunction"] = True
    return jsonopt("device", body, why=why)


def _no_place(part: Part, platform: Platform, *, taken: int, buses: int) -> Problem:
    if platform == "microvm" and _is_on_mmio(part):
        way_out = "machine = 'q35'" if buses == MMIO_BUSES else "acpi = true"
        return Problem(part.key, f"this microvm has {buses} virtio buses, and all are taken", allowed=way_out)
    if platform == "microvm" and part.seat in {*_Q35_PORTS, *_PC_FIXED}:
        return Problem(part.key, f"a microvm has no PCI bus, and '{part.driver}' needs one", allowed="machine = 'q35'")
    if taken:
        way_out = "bus = 'scsi'" if part.seat in _DRIVES and platform != "microvm" else "fewer of them"
        return Problem(part.key, f"{platform} has {taken} {part.seat}, and all are taken", allowed=way_out)
    allowed = "bus = 'sata'" if part.seat is Seat.IDE_PORT else "machine = 'q35'"
    return Problem(part.key, f"{platform} has no {part.seat}, and '{part.driver}' needs one", allowed=allowed)


def _seats(parts: Sequence[Part], platform: Platform, *, buses: int) -> Callable[[Part, int], _Place | None]:
    """What finds the place of a device, given how many of its kind are placed already."""
    match platform:
        case "q35":
            return _q35
        case "pc":
            return _pc
        case "microvm":
            return _microvm(parts, buses)
        case _:
            assert_never(platform)


def _microvm(parts: Sequence[Part], buses: int) -> Callable[[Part, int], _Place | None]:
    """Buses by role, so that the first network is always on the first bus."""
    on_buses = sorted(filter(_is_on_mmio, parts), key=lambda part: _MMIO.index(part.seat))
    numbers = {part.id: number for number, part in enumerate(on_buses)}

    def find(part: Part, index: int) -> _Place | None:
        if not _is_on_mmio(part):
            return _controller_seat(part, index)
        number = numbers[part.id]
        return _Place({"bus": f"virtio-mmio-bus.{number}"}) if number < buses else None

    return find


def _is_on_mmio(part: Part) -> bool:
    return part.seat in _MMIO and part.driver.endswith("-device")


def _q35(part: Part, index: int) -> _Place | None:
    slots = _Q35_PORTS.get(part.seat)
    if slots is not None:
        slot, function = divmod(index, PORTS_PER_SLOT)
        if slot >= len(slots):
            return None
        return _Place({"bus": f"{part.id}-port", "addr": "0x0"}, port=(slots[slot], function))
    if part.seat in _Q35_FIXED:
        return _fixed("pcie.0", _Q35_FIXED[part.seat], index)
    if part.seat is Seat.SATA_PORT:
        return _Place({"bus": f"ide.{index}"}) if index < 6 else None
    return _controller_seat(part, index)


def _pc(part: Part, index: int) -> _Place | None:
    if part.seat in _PC_FIXED:
        return _fixed("pci.0", _PC_FIXED[part.seat], index)
    if part.seat is Seat.SHARE:
        return _function("pci.0", _PC_SHARES, index)
    if part.seat is Seat.SATA_PORT:
        return _Place({"bus": f"{part.on}.{index}"}) if index < 6 else None
    if part.seat is Seat.IDE_PORT:
        return _Place({"bus": f"ide.{index // 2}", "unit": index % 2}) if index < 4 else None
    return _controller_seat(part, index)


def _function(bus: str, slot: int, index: int) -> _Place | None:
    address: dict[str, Value] = {"bus": bus, "addr": f"{slot:#x}.{index:#x}"}
    return _Place(address | ({"multifunction": True} if index == 0 else {})) if index < PORTS_PER_SLOT else None


def _fixed(bus: str, slots: range, index: int) -> _Place | None:
    return _Place({"bus": bus, "addr": f"{slots[index]:#x}"}) if index < len(slots) else None


def _controller_seat(part: Part, index: int) -> _Place | None:
    """Seats that look alike on every platform, because their controller is one of ours."""
    match part.seat:
        case Seat.ISA:
            return _Place({})
        case Seat.SCSI_TARGET:
            # Target numbers end at 255 and each has its disk as LUN 0, as libvirt lays them out.
            return _Place({"bus": f"{part.on}.0", "scsi-id": index, "lun": 0}) if index < 256 else None
        case Seat.USB_PORT:
            return _Place({"bus": f"{part.on}.0", "port": str(index + 1)}) if index < 15 else None
        case Seat.FLOPPY_DRIVE:
            return _Place({"bus": f"{part.on}.0", "unit": index}) if index < 2 else None
        case Seat.CHANNEL_PORT:
            # Port 0 is kept for a console by the virtio specification's first version.
            return _Place({"bus": f"{part.on}.0", "nr": index + 1}) if index < 30 else None
        case _:
            return None
