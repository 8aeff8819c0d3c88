"""Keyboards, mice and tablets."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from pydantic import Field

from kvmctl.plan.option import Value
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices import controllers
from kvmctl.spec.devices.device import Device

InputType: TypeAlias = Literal["tablet", "keyboard", "mouse"]
InputBus: TypeAlias = Literal["usb", "virtio"]

_USB: Final = {"tablet": "usb-tablet", "keyboard": "usb-kbd", "mouse": "usb-mouse"}


class Input(Device):
    """A keyboard, mouse or tablet besides the PS/2 ones that a PC has."""

    type: InputType = Field(
        description="A tablet reports where the pointer is, so that it follows the viewer's; a mouse how it moved."
    )
    bus: InputBus | None = Field(default=None, description="How it is attached: usb unless given, virtio on a microvm.")

    def lower(self, ctx: Context, at: At) -> Lowered:
        """One device, and the controller it shares."""
        return input_device(self.type, self.bus, ctx, at, index=at.index)


def input_device(kind: InputType, bus: InputBus | None, ctx: Context, at: At, *, index: int) -> Lowered:
    """A device of that kind, on the platform's own bus unless one is given."""
    body: dict[str, Value] = {"id": f"input{index}"}
    if (bus or ("virtio" if ctx.platform == "microvm" else "usb")) == "virtio":
        virtio = {"driver": ctx.virtio(f"virtio-{kind}"), **body}
        return Lowered(parts=(Part(Seat.INPUT, virtio, at.key, at.why),))
    part = Part(Seat.USB_PORT, {"driver": _USB[kind], **body}, at.key, at.why, on="usb")
    return Lowered(shared=(controllers.usb(at),), parts=(part,))
