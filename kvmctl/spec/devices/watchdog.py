"""The watchdog: does something about a guest that no longer answers it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.option import keyval
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device

WatchdogAction: TypeAlias = Literal["reset", "shutdown", "poweroff", "inject-nmi", "pause", "debug", "none"]


class Watchdog(Device):
    """A watchdog."""

    model: Literal["i6300esb", "itco", "ib700"] = Field(
        default="i6300esb",
        description="'i6300esb' on PCI, 'itco' is the one in q35's chipset, 'ib700' on ISA.",
    )
    action: WatchdogAction = Field(default="reset", description="What happens when it runs out, in QEMU's words.")

    def lower(self, ctx: Context, at: At) -> Lowered:
        """One device; the chipset's own is only told that it may act."""
        match self.model:
            case "i6300esb":
                return Lowered(parts=(Part(Seat.WATCHDOG, {"driver": "i6300esb", "id": "watchdog"}, at.key, at.why),))
            case "ib700":
                return Lowered(parts=(Part(Seat.ISA, {"driver": "ib700", "id": "watchdog"}, at.key, at.why),))
            case "itco" if ctx.platform == "q35":
                # Until QEMU 8.0 the chipset's watchdog is wired not to reset anything.
                return Lowered(
                    options=(keyval("global", driver="ICH9-LPC", property="noreboot", value=False, why=at.why),)
                )
            case "itco":
                problem = Problem(f"{at.key}.model", "only q35's chipset has it", "'itco'", "'i6300esb' or 'ib700'")
                return Lowered(problems=(problem,))
