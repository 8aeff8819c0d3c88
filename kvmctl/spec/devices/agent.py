"""The guest agent's channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final, Literal

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.model import RESIDENT_PORT, TRANSFER_PORT, Listen, MakeFifos
from kvmctl.plan.option import Value, keyvals
from kvmctl.plan.paths import RESIDENT
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices import controllers
from kvmctl.spec.devices.device import Device
from kvmctl.spec.devices.serial import listening
from kvmctl.spec.model import Bool

PORT_NAME: Final = "org.qemu.guest_agent.0"
"""Where qemu-ga looks for its port (QEMU, docs/interop/qemu-ga.rst)."""


class Agent(Device):
    """The channel that the QEMU guest agent listens on in the guest."""

    reason: ClassVar[str] = "commands, files and an orderly shutdown, wherever the guest runs qemu-ga"

    transport: Literal["virtio", "serial"] = Field(
        default="virtio",
        description="'virtio' is a virtio-serial port and says when the agent opens it; 'serial' is COM2, for guests "
        "without virtio.",
    )
    transfer: Bool | None = Field(
        default=None,
        description="A second virtio-serial port beside the agent's, through which files are copied several times as "
        "fast; there unless it is false, but not with 'serial'.",
    )

    resident: Bool = Field(
        default=False,
        description="A port beside these for the resident, a small program of kvmctl's own, in guests that start it. "
        "It has a command run sooner than the agent does, and passes on its output as it comes; not with 'serial'.",
    )

    def contradictions(self) -> Iterator[Problem]:
        """What a serial port can't have."""
        for key in ("transfer", "resident"):
            if self.transport == "serial" and getattr(self, key):
                message = "is a virtio-serial port beside the agent's, which is on a serial port itself"
                yield Problem(key, message, "true", "transport = 'virtio', or leave it out")

    @property
    def has_transfer(self) -> bool:
        """Whether files have a port of their own."""
        return self.transfer is not False and self.transport == "virtio"

    @property
    def has_resident(self) -> bool:
        """Whether the resident has a port."""
        return self.resident and self.transport == "virtio"

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The stream, and the port it is attached to."""
        # Without an id QEMU sends no VSERPORT_CHANGE, the event that says the agent has opened its port.
        body: dict[str, Value] = {"id": "agent", "chardev": "agent"}
        if self.transport == "serial":
            return _serial(ctx, at, body)
        # Of a port that nobody is connected to, the agent would look only every 0.1 s whether that has changed (QEMU,
        # qga/channel-posix.c). QEMU has both ends of the FIFOs open, so there is always somebody.
        fifos = ctx.paths.agent_fifos
        port = {"driver": "virtserialport", **body, "name": PORT_NAME}
        agent = Lowered(
            options=(keyvals("chardev", "pipe", {"id": "agent", "path": fifos}, why=at.why),),
            steps=(MakeFifos(fifos),),
            shared=(controllers.channels(ctx, at),),
            parts=(Part(Seat.CHANNEL_PORT, port, at.key, at.why, on="channels"),),
        )
        if self.has_transfer:
            agent += _beside(at, "transfer", ctx.paths.transfer, name=TRANSFER_PORT, what="files are copied through it")
        if self.has_resident:
            agent += _beside(at, RESIDENT, ctx.paths.resident, name=RESIDENT_PORT, what="commands are run through it")
        return agent


def _serial(ctx: Context, at: At, body: dict[str, Value]) -> Lowered:
    """The agent on COM2. On a socket: what firmware prints to every serial port must have nobody to wait for."""
    return Lowered(
        options=(listening("agent", fd="agent", log=None, why=at.why),),
        fds=(Listen("agent", ctx.paths.agent),),
        parts=(Part(Seat.ISA, {"driver": "isa-serial", **body, "index": 1}, at.key, at.why),),
    )


def _beside(at: At, device: str, path: str, *, name: str, what: str) -> Lowered:
    """A port of our own beside the agent's, which the guest knows by `name`, and its stream at the socket `path`."""
    why = f"{at.why}: {what}"
    body = {"driver": "virtserialport", "id": device, "chardev": device, "name": name}
    return Lowered(
        options=(listening(device, fd=device, log=None, why=why),),
        fds=(Listen(device, path),),
        parts=(Part(Seat.CHANNEL_PORT, body, at.key, why, on="channels"),),
    )
