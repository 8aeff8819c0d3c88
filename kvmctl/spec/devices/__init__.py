"""Every device a spec can have, one line each: this is the list that a new device is added to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias, get_args

from pydantic import Field

from kvmctl.spec.context import At, Context, Lowered, join
from kvmctl.spec.devices.agent import Agent
from kvmctl.spec.devices.balloon import Balloon
from kvmctl.spec.devices.device import Device
from kvmctl.spec.devices.disk import Disk
from kvmctl.spec.devices.input import Input
from kvmctl.spec.devices.network_link import DgramNetwork, NoNetwork, StreamNetwork
from kvmctl.spec.devices.network_tap import TapNetwork
from kvmctl.spec.devices.network_user import UserNetwork
from kvmctl.spec.devices.panic import Panic
from kvmctl.spec.devices.rng import Rng
from kvmctl.spec.devices.serial import Channel, Serial, VirtioConsole
from kvmctl.spec.devices.share import Share
from kvmctl.spec.devices.video import Video, VideoModel
from kvmctl.spec.devices.vnc import Vnc
from kvmctl.spec.devices.vsock import Vsock
from kvmctl.spec.devices.watchdog import Watchdog
from kvmctl.spec.model import AlsoTakes, Model, Switch, table_of

Network: TypeAlias = Annotated[
    UserNetwork | TapNetwork | StreamNetwork | DgramNetwork | NoNetwork, Field(discriminator="type")
]


_VIDEO_MODELS: Final = {"enum": [*get_args(VideoModel)]}


class Devices(Model):
    """The devices of a machine. Tables that are on without being written can be switched off: ``balloon = false``."""

    networks: tuple[Network, ...] = Field(default=(), description="Network cards.")
    disks: tuple[Disk, ...] = Field(default=(), description="Disks, CD drives and floppy drives.")
    serials: tuple[Serial, ...] = Field(
        default=[{}], validate_default=True, description="Serial ports; the first is the console."
    )
    consoles: tuple[VirtioConsole, ...] = Field(default=(), description="Virtio consoles, /dev/hvc0 and on.")
    agent: Switch[Agent] = Field(
        default=True, validate_default=True, description="The guest agent's channel; false leaves it out."
    )
    channels: tuple[Channel, ...] = Field(default=(), description="Named streams between host and guest.")
    shares: tuple[Share, ...] = Field(default=(), description="Directories of the host that the guest can mount.")
    balloon: Switch[Balloon] = Field(
        default=True, validate_default=True, description="The memory balloon; false leaves it out."
    )
    rng: Switch[Rng] = Field(
        default=True, validate_default=True, description="The random number generator; false leaves it out."
    )
    panic: Switch[Panic] = Field(
        default=True, validate_default=True, description="The panic device; false leaves it out."
    )
    watchdog: Switch[Watchdog] = Field(default=None, description="A watchdog; true gives the usual one.")
    vsock: Vsock | None = Field(default=None, description="Sockets between host and guest without a network.")
    video: Annotated[Video, table_of("model", str, kind="a model"), AlsoTakes((_VIDEO_MODELS,))] = Field(
        default={}, validate_default=True, description="The graphics card: its model ('std'), or a table."
    )
    inputs: tuple[Input, ...] | None = Field(
        default=None, description="Keyboards, mice and tablets; unless given, a tablet where there is VNC."
    )
    vnc: Switch[Vnc] = Field(default=None, description="The VNC server; true is one on a Unix socket.")


def lower(devices: Devices, ctx: Context) -> Lowered:
    """All devices, in the order of the list above."""
    return join(device.lower(ctx, at) for device, at in placed(devices))


def placed(devices: Devices) -> Iterator[tuple[Device, At]]:
    """Every device with its key in the spec and the reason it is there."""
    for field in Devices.model_fields:
        value = getattr(devices, field)
        is_given = devices.gives(field)
        if isinstance(value, Device):
            yield value, At(field, 0, field if is_given else f"default: {value.reason}")
        elif isinstance(value, tuple):
            for index, device in enumerate(value):
                key = f"{field}[{index}]"
                yield device, At(key, index, key if is_given else f"default: {device.reason}")
