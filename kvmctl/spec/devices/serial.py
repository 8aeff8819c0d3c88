"""Serial ports, virtio consoles and channels: streams between guest and host, each a Unix socket of its own.

The first of the serial ports (or of the virtio consoles, where there are no serial ports) is the machine's console.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.model import Console, Listen
from kvmctl.plan.option import Fd, Option, Value, keyvals
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices import controllers
from kvmctl.spec.devices.device import Device
from kvmctl.spec.model import Bool
from kvmctl.spec.units import Id, Line

COM_PORTS = 4


def listening(chardev: str, *, fd: str, log: str | None, why: str) -> Option:
    """A chardev that serves one client at a time on a socket the launcher listens on; `log` keeps all output."""
    body: dict[str, Any] = {"id": chardev, "fd": Fd(fd), "server": True, "wait": False}
    if log:
        body |= {"logfile": log, "logappend": False}
    return keyvals("chardev", "socket", body, why=why)


def _console(ctx: Context, at: At, *, console_id: str, log: bool, main: bool) -> Lowered:
    """The stream of a console; the main one has the paths every command looks at."""
    socket = ctx.paths.console if main else ctx.paths.socket(console_id)
    logfile = ctx.paths.console_log if main else ctx.paths.log(console_id)
    fd = "console" if main else console_id
    return Lowered(
        options=(listening(console_id, fd=fd, log=logfile if log else None, why=at.why),),
        fds=(Listen(fd, socket),),
        consoles=(Console(console_id, socket, logfile if log else ""),),
    )


class Serial(Device):
    """A serial port of the PC: COM1 and on. COM1 is the machine's console."""

    reason: ClassVar[str] = "every firmware and kernel can speak to a serial port; logged from the first byte"

    id: Id | None = Field(default=None, description="The port's id in QEMU; 'serial' and its number unless given.")
    log: Bool = Field(
        default=True,
        description="Keep everything it prints, in a file that grows as long as the machine runs.",
    )

    def device_id(self, index: int) -> str:
        """The port's id in QEMU."""
        return self.id or f"serial{index}"

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The stream and the port."""
        port_id = self.device_id(at.index)
        # The agent, where it is attached to a serial port, has COM2.
        index = at.index + 1 if at.index and ctx.agent_on_serial else at.index
        if index >= COM_PORTS:
            return Lowered(
                problems=(Problem(at.key, f"a PC has {COM_PORTS} serial ports", allowed="use [[consoles]]"),)
            )
        body: dict[str, Value] = {"driver": "isa-serial", "id": port_id, "chardev": port_id, "index": index}
        stream = _console(ctx, at, console_id=port_id, log=self.log, main=at.index == 0)
        return stream + Lowered(parts=(Part(Seat.ISA, body, at.key, at.why),))


class VirtioConsole(Device):
    """A virtio console, ``/dev/hvc0`` and on in the guest: fast, but silent until the guest's driver runs."""

    id: Id | None = Field(default=None, description="The console's id in QEMU; 'console' and its number unless given.")
    log: Bool = Field(
        default=True,
        description="Keep everything it prints, in a file that grows as long as the machine runs.",
    )

    def device_id(self, index: int) -> str:
        """The console's id in QEMU."""
        return self.id or f"console{index}"

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The stream, the port, and the controller it shares."""
        console_id = self.device_id(at.index)
        body = {"driver": "virtconsole", "id": console_id, "chardev": console_id}
        main = at.index == 0 and not ctx.has_serial
        stream = _console(ctx, at, console_id=console_id, log=self.log, main=main)
        return stream + Lowered(
            shared=(controllers.channels(ctx, at),),
            parts=(Part(Seat.CHANNEL_PORT, body, at.key, at.why, on="channels"),),
        )


class Channel(Device):
    """A named stream between a program of the host and one of the guest, ``/dev/virtio-ports/NAME`` there."""

    name: Line = Field(min_length=1, max_length=63, description="The port's name in the guest, 'org.example.stats.0'.")
    id: Id | None = Field(
        default=None,
        description="The port's id in QEMU, which also names its socket; 'channel' and its number unless given.",
    )

    def device_id(self, index: int) -> str:
        """The port's id in QEMU."""
        return self.id or f"channel{index}"

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The stream, the port, and the controller it shares."""
        port_id = self.device_id(at.index)
        body = {"driver": "virtserialport", "id": port_id, "chardev": port_id, "name": self.name}
        return Lowered(
            options=(listening(port_id, fd=port_id, log=None, why=at.why),),
            fds=(Listen(port_id, ctx.paths.socket(port_id)),),
            shared=(controllers.channels(ctx, at),),
            parts=(Part(Seat.CHANNEL_PORT, body, at.key, at.why, on="channels"),),
        )
