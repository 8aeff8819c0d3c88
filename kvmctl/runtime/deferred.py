"""Doors to modules that few commands need, or whose libraries (pyroute2, psutil, pycdlib) are slow to import: paid for
by who goes through."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING

from kvmctl.plan.guest import MakeKeys, TellGuest
from kvmctl.plan.model import Tap, VhostNet

if TYPE_CHECKING:
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


def make_keys(step: MakeKeys, undo: ExitStack) -> None:
    """`kvmctl.runtime.sshkeys.make_keys`."""
    import_module("kvmctl.runtime.sshkeys").make_keys(step, undo)


def tell_guest(step: TellGuest, undo: ExitStack) -> None:
    """`kvmctl.runtime.firstboot.tell_guest`."""
    import_module("kvmctl.runtime.firstboot").tell_guest(step, undo)


def seed_image(contents: Mapping[str, bytes]) -> bytes:
    """`kvmctl.image.seed.seed_image`."""
    image: bytes = import_module("kvmctl.image.seed").seed_image(contents)
    return image


def cloud_config_problem(text: str, *, needs_header: bool) -> str:
    """`kvmctl.runtime.cloudconfig.cloud_config_problem`."""
    problem: str = import_module("kvmctl.runtime.cloudconfig").cloud_config_problem(text, needs_header=needs_header)
    return problem
