"""The graphics card."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device

VideoModel: TypeAlias = Literal["virtio", "std", "qxl", "cirrus", "none"]


class Video(Device):
    """The graphics card. ``video = "std"`` stands for a table with that model."""

    reason: ClassVar[str] = "a screen needs a card"

    model: VideoModel | None = Field(
        default=None,
        description="'virtio', 'std' (the Bochs VGA), 'qxl', 'cirrus' or 'none'. Unless given: none without VNC, and "
        "with it virtio, or std where this QEMU has no virtio graphics.",
    )

    def model_on(self, ctx: Context) -> VideoModel:
        """The model, given or chosen."""
        if self.model is not None:
            return self.model
        if not ctx.has_vnc:
            return "none"
        return "virtio" if _driver("virtio", ctx) in ctx.qemu.devices else "std"

    def lower(self, ctx: Context, at: At) -> Lowered:
        """One device, or none."""
        model = self.model_on(ctx)
        if model == "none":
            blind = Problem(f"{at.key}.model", "there is VNC and no screen to show", "'none'", "leave it out")
            return Lowered(problems=(blind,) if ctx.has_vnc else ())
        return Lowered(parts=(Part(Seat.VIDEO, {"driver": _driver(model, ctx), "id": "video"}, at.key, at.why),))


def _driver(model: VideoModel, ctx: Context) -> str:
    match model:
        case "virtio":
            # virtio-vga is the same card with a VGA part that firmware and installers can draw on.
            return "virtio-gpu-device" if ctx.platform == "microvm" else "virtio-vga"
        case "std":
            return "VGA"
        case _:
            return f"{model}-vga"
