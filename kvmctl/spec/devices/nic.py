"""What every kind of network interface has: the card the guest sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, TypeAlias

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan import model as plan
from kvmctl.plan.mac import derived_mac
from kvmctl.plan.option import Option, Value, jsonopt
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device
from kvmctl.spec.model import Int
from kvmctl.spec.netaddr import MacAddress
from kvmctl.spec.units import Id

NicModel: TypeAlias = Literal["virtio", "e1000e", "e1000", "rtl8139"]


class Nic(Device):
    """A network card; what it is plugged into is the derived tables' matter."""

    kind: ClassVar[str]

    id: Id | None = Field(default=None, description="The card's id in QEMU; 'net' and its number unless given.")
    model: NicModel = Field(default="virtio", description="The card the guest sees.")
    mac: MacAddress | None = Field(
        default=None, description="The card's address; derived from the machine's name unless given."
    )
    boot_index: Int | None = Field(
        default=None, ge=0, description="The place among everything the firmware tries, smallest first."
    )

    @property
    def queue_pairs(self) -> int:
        """How many pairs of queues the card has."""
        return 1

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        if self.queue_pairs > 1 and self.model != "virtio":
            yield Problem("queues", f"an {self.model} has one pair of queues", allowed="model = 'virtio' has more")

    def device_id(self, index: int) -> str:
        """The card's id in QEMU."""
        return self.id or f"net{index}"

    def netdev_id(self, index: int) -> str:
        """The id of what the card is plugged into."""
        return f"{self.device_id(index)}-netdev"

    def netdev(self, at: At, body: Mapping[str, Value]) -> Option:
        """The ``-netdev`` of type ``kind`` that the card is plugged into."""
        return jsonopt("netdev", {"type": self.kind, "id": self.netdev_id(at.index), **body}, why=at.why)

    def card(self, ctx: Context, at: At, *, forwards: tuple[str, ...] = (), is_connected: bool = True) -> Lowered:
        """The card, and its line in the plan."""
        mac = self.mac or derived_mac(ctx.name, at.index)
        driver = ctx.virtio("virtio-net") if self.model == "virtio" else self.model
        body: dict[str, Value] = {
            "driver": driver,
            "id": self.device_id(at.index),
            **({"netdev": self.netdev_id(at.index)} if is_connected else {}),
            "mac": mac,
        }
        if self.queue_pairs > 1:
            body["mq"] = True
            if ctx.platform != "microvm":
                # One vector a queue, one for the control queue and one for configuration changes.
                body["vectors"] = 2 * self.queue_pairs + 2
        index = ctx.boot_indexes.get(at.key)
        if index is not None:
            body["bootindex"] = index.value
        reasons = {"bootindex": index.why} if index is not None else {}
        return Lowered(
            parts=(Part(Seat.NETWORK, body, at.key, at.why, reasons=reasons),),
            networks=(plan.Network(self.device_id(at.index), self.kind, mac, forwards),),
        )
