"""A tap: the guest's card is an interface of the host, on a bridge or alone.

The launcher opens the tap and hands QEMU its descriptors, so QEMU needs no privilege and the kernel removes the
interface when QEMU ends, however that comes about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.model import FdSource, Tap, VhostNet
from kvmctl.plan.option import Fd, Fds, Value
from kvmctl.spec.context import At, Context, Lowered
from kvmctl.spec.devices.nic import Nic
from kvmctl.spec.model import Int
from kvmctl.spec.netaddr import Interface


class TapNetwork(Nic):
    """A card on a tap interface."""

    kind: ClassVar[str] = "tap"

    type: Literal["tap"] = Field(description="An interface of the host.")
    device: Interface | None = Field(
        default=None, description="The interface's name; one that exists is used as it is, else the kernel numbers one."
    )
    bridge: Interface | None = Field(default=None, description="The bridge the interface is put on.")
    queues: Int = Field(default=1, ge=1, le=64, description="Pairs of queues; as many as CPUs is a good number.")
    vhost: Literal["auto", "on", "off"] = Field(
        default="auto", description="Move packets in the kernel: 'auto' does where the host has vhost-net."
    )

    @property
    def queue_pairs(self) -> int:
        """How many pairs of queues the card has."""
        return self.queues

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        yield from super().contradictions()
        if self.vhost == "on" and self.model != "virtio":
            yield Problem("vhost", f"an {self.model} can't use it", "'on'", "model = 'virtio'")

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The tap, its helper in the kernel, and the card."""
        name = self.device_id(at.index)
        taps = tuple(f"{name}-tap{queue}" for queue in range(self.queues))
        vhosts = tuple(f"{name}-vhost{queue}" for queue in range(self.queues)) if self._uses_vhost(ctx) else ()
        body: dict[str, Value] = {**_fds("fd", taps), "vhost": bool(vhosts), **_fds("vhostfd", vhosts)}
        fds: list[FdSource] = [Tap(taps, at.key, self.device, self.bridge)]
        if vhosts:
            fds.append(VhostNet(vhosts, f"{at.key}.vhost"))
        tap = Lowered(options=(self.netdev(at, body),), fds=tuple(fds), problems=tuple(self._problems(ctx, at)))
        return tap + self.card(ctx, at)

    def _uses_vhost(self, ctx: Context) -> bool:
        # QEMU 7.2 aborts when it is told to use a vhost-net that is not there, so it is never told without looking.
        return self.vhost != "off" and self.model == "virtio" and ctx.host.vhost_net

    def _problems(self, ctx: Context, at: At) -> Iterator[Problem]:
        if not ctx.host.tun:
            fix = "modprobe tun, and permission for /dev/net/tun; or type = 'user'"
            yield Problem(f"{at.key}.type", "this host has no usable /dev/net/tun", "'tap'", fix)
        if self.vhost == "on" and not ctx.host.vhost_net:
            fix = "modprobe vhost_net, and permission for /dev/vhost-net; or vhost = 'auto'"
            yield Problem(f"{at.key}.vhost", "this host has no usable /dev/vhost-net", "'on'", fix)


def _fds(key: str, names: tuple[str, ...]) -> dict[str, Value]:
    """One descriptor by ``fd``, several by ``fds``: QEMU refuses the one where it wants the other."""
    match names:
        case ():
            return {}
        case (name,):
            return {key: Fd(name)}
        case _:
            return {f"{key}s": Fds(names)}
