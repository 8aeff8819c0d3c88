"""Keyboards, mice and tablets."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import Field

from kvmctl.plan.option import Value
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices import controllers
from kvmctl.spec.devices.device import Device

_USB: Final = {"tablet": "usb-tablet", "keyboard": "usb-kbd", "mouse": "usb-mouse"}


class Input(Device):
    """A keyboard, mouse or tablet besides the PS/2 ones that a PC has."""

    reason: ClassVar[str] = "the pointer is where the viewer's is"

    type: Literal["tablet", "keyboard", "mouse"] = Field(
        description="A tablet reports where the pointer is, so that it follows the viewer's; a mouse how it moved."
    )
    bus: Literal["usb", "virtio"] | None = Field(
        default=None, description="How it is attached: usb unless given, virtio on a microvm."
    )

    def lower(self, ctx: Context, at: At) -> Lowered:
        """One device, and the controller it shares. Nobody needs those of the default without a screen."""
        has_its_own = self.type == "keyboard" and ctx.platform != "microvm"
        if not at.is_given and (not ctx.has_vnc or has_its_own):
            return Lowered()
        body: dict[str, Value] = {"id": f"input{at.index}"}
        if (self.bus or ("virtio" if ctx.platform == "microvm" else "usb")) == "virtio":
            virtio = {"driver": ctx.virtio(f"virtio-{self.type}"), **body}
            return Lowered(parts=(Part(Seat.INPUT, virtio, at.key, at.why),))
        usb = {"driver": _USB[self.type], **body}
        return Lowered(
            shared=(controllers.usb(at),),
            parts=(Part(Seat.USB_PORT, usb, at.key, at.why, on="usb"),),
        )
