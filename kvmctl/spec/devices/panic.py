"""The panic device: how a guest says that its kernel has crashed."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device


class Panic(Device):
    """A pvpanic device."""

    reason: ClassVar[str] = "a crashed kernel is told apart from a quiet one"

    model: Literal["isa", "pci"] = Field(
        default="isa",
        description="'isa' is found through ACPI or at port 0x505, 'pci' needs a driver of 2021 or later.",
    )

    def lower(self, ctx: Context, at: At) -> Lowered:
        """One device."""
        del ctx
        if self.model == "isa":
            return Lowered(parts=(Part(Seat.ISA, {"driver": "pvpanic", "id": "panic"}, at.key, at.why),))
        return Lowered(parts=(Part(Seat.PANIC, {"driver": "pvpanic-pci", "id": "panic"}, at.key, at.why),))
