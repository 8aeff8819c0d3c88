"""The user network: QEMU's own NAT, which needs no privilege, with ports of the host forwarded to the guest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.model import Port
from kvmctl.plan.option import Value
from kvmctl.spec.context import At, Context, Lowered
from kvmctl.spec.devices.nic import Nic
from kvmctl.spec.model import Bool
from kvmctl.spec.netaddr import Forward, PortForward


class UserNetwork(Nic):
    """A card on QEMU's user network (slirp)."""

    kind: ClassVar[str] = "user"

    type: Literal["user"] = Field(description="QEMU's own NAT: no privilege, no bridge, and no way in but forwards.")
    forward: tuple[Forward, ...] = Field(
        default=(),
        description="Ports of the host that lead to the guest: '127.0.0.1:2222->22', 'udp:5353->53'. The host's "
        "address is 127.0.0.1 unless given; host port 0 lets QEMU pick one.",
    )
    restrict: Bool = Field(
        default=False, description="Cut the guest off from the host and the outside; forwards still lead in."
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        yield from super().contradictions()
        counts = Counter((item.protocol, item.host, item.host_port) for item in self.forward if item.host_port)
        for index, item in enumerate(self.forward):
            if counts[item.protocol, item.host, item.host_port] > 1:
                yield Problem(
                    f"forward[{index}]", "the same port of the host is forwarded twice", f"'{item}'", "another port"
                )

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The network and the card."""
        body: dict[str, Value] = {"restrict": self.restrict}
        if self.forward:
            body["hostfwd"] = [{"str": _slirp(item)} for item in self.forward]
        ports = tuple(
            Port(item.host, item.host_port, f"{at.key}.forward[{index}]")
            for index, item in enumerate(self.forward)
            if item.host_port and item.protocol == "tcp"
        )
        forwards = tuple(str(item) for item in self.forward)
        return Lowered(options=(self.netdev(at, body),), ports=ports) + self.card(ctx, at, forwards=forwards)


def _slirp(item: PortForward) -> str:
    """The forward in libslirp's syntax (QEMU, net/slirp.c)."""
    return f"{item.protocol}:{item.host}:{item.host_port}-{item.guest}:{item.guest_port}"
