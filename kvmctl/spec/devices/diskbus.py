"""The buses that disks and CD drives are attached to: what each calls the drive, and the controller it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from kvmctl.spec.context import At, Context, Part, Platform, Seat
from kvmctl.spec.devices import controllers

Bus: TypeAlias = Literal["virtio", "scsi", "sata", "ide", "nvme", "usb"]

CD_BUS: Final[Mapping[Platform, Bus]] = {"q35": "sata", "pc": "ide", "microvm": "scsi"}
"""The bus that a CD drive is on unless the spec says otherwise: the one every installer has a driver for."""
CD_BUSES: Final = frozenset({"sata", "ide", "scsi"})
THREADED: Final = frozenset({"virtio", "scsi"})
"""Buses whose disks can be served by an I/O thread."""
SERIAL_LENGTH: Final = 20
"""Characters of a serial number that every bus has room for."""

SEATS: Final[Mapping[Bus, Seat]] = {
    "virtio": Seat.DISK,
    "nvme": Seat.DISK,
    "scsi": Seat.SCSI_TARGET,
    "sata": Seat.SATA_PORT,
    "ide": Seat.IDE_PORT,
    "usb": Seat.USB_PORT,
}


def driver(bus: Bus, ctx: Context, *, is_cd: bool) -> str:
    """The device type of a drive."""
    kind = "cd" if is_cd else "hd"
    match bus:
        case "virtio":
            return ctx.virtio("virtio-blk")
        case "scsi":
            return f"scsi-{kind}"
        case "sata" | "ide":
            return f"ide-{kind}"
        case "nvme":
            return "nvme"
        case "usb":
            return "usb-storage"


def controller(bus: Bus, ctx: Context, at: At, *, iothread: str) -> tuple[Part, ...]:
    """The controller to be shared, unless the drive is one itself or the machine has one built in."""
    match bus:
        case "scsi":
            return (controllers.scsi(ctx, at, iothread=iothread),)
        case "usb":
            return (controllers.usb(at),)
        case "sata" if ctx.platform == "pc":
            return (controllers.ahci(at),)
        case _:
            return ()
