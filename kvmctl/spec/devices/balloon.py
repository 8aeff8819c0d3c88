"""The memory balloon: lets the host take memory back from a running guest."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from kvmctl.plan.model import QmpStep
from kvmctl.plan.option import Value
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device
from kvmctl.spec.model import Bool, Int


class Balloon(Device):
    """A virtio memory balloon."""

    reason: ClassVar[str] = "the host gets back what the guest does not use"

    free_page_reporting: Bool = Field(
        default=True, description="The guest tells which pages it has freed, and the host takes them at once."
    )
    deflate_on_oom: Bool = Field(
        default=True, description="The guest may take memory out of the balloon rather than run out of it."
    )
    stats_interval: Int = Field(
        default=0, ge=0, le=3600, description="Seconds between the guest's memory statistics; 0 asks for none."
    )

    def lower(self, ctx: Context, at: At) -> Lowered:
        """One device, and the polling interval, which only the monitor can set."""
        body: dict[str, Value] = {
            "driver": ctx.virtio("virtio-balloon"),
            "id": "balloon",
            "free-page-reporting": self.free_page_reporting,
            "deflate-on-oom": self.deflate_on_oom,
        }
        polling = QmpStep(
            "qom-set",
            {
                "path": "/machine/peripheral/balloon",
                "property": "guest-stats-polling-interval",
                "value": self.stats_interval,
            },
            why=f"{at.key}.stats_interval",
        )
        return Lowered(
            parts=(Part(Seat.BALLOON, body, at.key, at.why),),
            before_run=(polling,) if self.stats_interval else (),
        )
