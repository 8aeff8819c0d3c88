"""Doors to modules that are slow to import, for their libraries (pyroute2, psutil, tarfile) or for being many: paid for
by who goes through."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kvmctl.plan.model import Tap, VhostNet

if TYPE_CHECKING:
    from kvmctl.guest.agent import Agent, Connect
    from kvmctl.guest.copy import Copied
    from kvmctl.guest.info import GuestInfo
    from kvmctl.guest.progress import OnProgress
    from kvmctl.guest.upkeep import Trimmed
    from kvmctl.image.holders import Holder


def open_tap(source: Tap) -> list[int]:
    """`kvmctl.runtime.tap.open_tap`."""
    descriptors: list[int] = import_module("kvmctl.runtime.tap").open_tap(source)
    return descriptors


def open_vhost_net(source: VhostNet) -> list[int]:
    """`kvmctl.runtime.tap.open_vhost_net`."""
    descriptors: list[int] = import_module("kvmctl.runtime.tap").open_vhost_net(source)
    return descriptors


def find_client(path: str) -> int | None:
    """`kvmctl.runtime.peers.find_client`."""
    pid: int | None = import_module("kvmctl.runtime.peers").find_client(path)
    return pid


def is_stopped(pid: int) -> bool:
    """`kvmctl.runtime.peers.is_stopped`."""
    return bool(import_module("kvmctl.runtime.peers").is_stopped(pid))


def find_holders(path: str) -> list[Holder]:
    """`kvmctl.image.holders.find_holders`."""
    holders: list[Holder] = import_module("kvmctl.image.holders").find_holders(path)
    return holders


def find_listener(port: int) -> Holder | None:
    """`kvmctl.image.holders.find_listener`."""
    holder: Holder | None = import_module("kvmctl.image.holders").find_listener(port)
    return holder


async def copy_in(
    agent: Agent, source: str, target: str, *, connect: Connect | None, mark: str, on_progress: OnProgress | None
) -> Copied:
    """`kvmctl.guest.copy.copy_in`."""
    copy = import_module("kvmctl.guest.copy").copy_in
    copied: Copied = await copy(agent, source, target, connect=connect, mark=mark, on_progress=on_progress)
    return copied


async def copy_out(
    agent: Agent, source: str, target: str, *, connect: Connect | None, mark: str, on_progress: OnProgress | None
) -> Copied:
    """`kvmctl.guest.copy.copy_out`."""
    copy = import_module("kvmctl.guest.copy").copy_out
    copied: Copied = await copy(agent, source, target, connect=connect, mark=mark, on_progress=on_progress)
    return copied


async def read_info(agent: Agent) -> GuestInfo:
    """`kvmctl.guest.info.read_info`."""
    info: GuestInfo = await import_module("kvmctl.guest.info").read_info(agent)
    return info


async def set_password(agent: Agent, user: str, password: str, *, crypted: bool) -> None:
    """`kvmctl.guest.upkeep.set_password`."""
    await import_module("kvmctl.guest.upkeep").set_password(agent, user, password, crypted=crypted)


async def set_clock(agent: Agent) -> float:
    """`kvmctl.guest.upkeep.set_clock`."""
    return float(await import_module("kvmctl.guest.upkeep").set_clock(agent))


async def trim(agent: Agent, *, minimum: int) -> list[Trimmed]:
    """`kvmctl.guest.upkeep.trim`."""
    trimmed: list[Trimmed] = await import_module("kvmctl.guest.upkeep").trim(agent, minimum=minimum)
    return trimmed
