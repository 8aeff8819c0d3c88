"""The vsock device: sockets between host and guest without a network."""

from __future__ import annotations

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.option import Value
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device
from kvmctl.spec.model import Int


class Vsock(Device):
    """A vhost vsock device."""

    cid: Int = Field(
        ge=3, le=0xFFFF_FFFE, description="The guest's address, unique among the host's machines; 3 and up."
    )

    def lower(self, ctx: Context, at: At) -> Lowered:
        """One device."""
        if not ctx.host.vhost_vsock:
            fix = "modprobe vhost_vsock, and permission for /dev/vhost-vsock"
            return Lowered(problems=(Problem(at.key, "this host has no usable /dev/vhost-vsock", allowed=fix),))
        body: dict[str, Value] = {"driver": ctx.virtio("vhost-vsock"), "id": "vsock", "guest-cid": self.cid}
        return Lowered(parts=(Part(Seat.VSOCK, body, at.key, at.why),))
