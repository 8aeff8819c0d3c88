"""The random number generator, without which a fresh guest waits for entropy."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from kvmctl.plan.model import Input
from kvmctl.plan.option import Value, jsonopt
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device
from kvmctl.spec.hostpath import path_or


class Rng(Device):
    """A virtio random number generator."""

    reason: ClassVar[str] = "a guest with no entropy stalls while it boots"

    source: Annotated[str, BeforeValidator(path_or("builtin"))] = Field(
        default="builtin",
        description="Where the randomness comes from: 'builtin' (QEMU's own, from the kernel's getrandom) or the path "
        "of a device, like '/dev/hwrng'.",
    )

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The back end and the device."""
        backend: dict[str, Value] = {"qom-type": "rng-builtin", "id": "rng-source"}
        inputs: tuple[Input, ...] = ()
        if self.source != "builtin":
            backend |= {"qom-type": "rng-random", "filename": self.source}
            inputs = (Input(self.source, f"{at.key}.source"),)
        body: dict[str, Value] = {"driver": ctx.virtio("virtio-rng"), "id": "rng", "rng": "rng-source"}
        return Lowered(
            options=(jsonopt("object", backend, why=at.why),),
            parts=(Part(Seat.RNG, body, at.key, at.why),),
            inputs=inputs,
        )
