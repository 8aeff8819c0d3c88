"""Controllers that devices share: each is asked for by whoever needs it and exists once."""

from __future__ import annotations

from kvmctl.plan.option import Option, Value, jsonopt
from kvmctl.spec.context import At, Context, Part, Platform, Seat


def usb(at: At) -> Part:
    """The USB controller: xHCI, with ports enough for every device of a spec."""
    return Part(Seat.USB, {"driver": "qemu-xhci", "id": "usb", "p2": 15, "p3": 15}, at.key, f"{at.why}: its controller")


def channels(ctx: Context, at: At) -> Part:
    """The virtio-serial controller that consoles, channels and the agent's port share."""
    body = {"driver": ctx.virtio("virtio-serial"), "id": "channels"}
    return Part(Seat.CHANNELS, body, at.key, f"{at.why}: its controller")


def scsi(ctx: Context, at: At, *, iothread: str) -> Part:
    """The virtio-scsi controller of one I/O thread; an empty name is QEMU's main loop."""
    body: dict[str, Value] = {"driver": ctx.virtio("virtio-scsi"), "id": scsi_id(iothread)}
    if iothread:
        body["iothread"] = iothread
    return Part(Seat.SCSI, body, at.key, f"{at.why}: its controller")


def scsi_id(iothread: str) -> str:
    """The id of the virtio-scsi controller that serves `iothread`."""
    return f"scsi-{iothread}" if iothread else "scsi"


def ahci(at: At) -> Part:
    """The AHCI controller that pc lacks and q35 has."""
    return Part(Seat.AHCI, {"driver": "ich9-ahci", "id": "ahci"}, at.key, f"{at.why}: its controller")


def floppy(platform: Platform, at: At) -> tuple[Part, ...]:
    """The floppy controller that q35 lacks and pc has."""
    if platform != "q35":
        return ()
    return (Part(Seat.ISA, {"driver": "isa-fdc", "id": "fdc"}, at.key, f"{at.why}: its controller"),)


def iothread(thread_id: str, at: At) -> Option:
    """An I/O thread."""
    return jsonopt("object", {"qom-type": "iothread", "id": thread_id}, why=f"{at.key}.iothread")
