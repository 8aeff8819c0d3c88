"""Doors to modules that are seldom needed, or whose libraries (pyroute2, psutil) are slow to import: paid for by who
goes through."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kvmctl.plan.model import Tap, VhostNet

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvmctl.errors import KvmctlError, NotFound
    from kvmctl.image.holders import Holder
    from kvmctl.plan.paths import Roots
    from kvmctl.runtime.neighbours import Neighbour


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


def find_neighbours(macs: Collection[str]) -> list[Neighbour]:
    """`kvmctl.runtime.neighbours.find_neighbours`."""
    found: list[Neighbour] = import_module("kvmctl.runtime.neighbours").find_neighbours(macs)
    return found


def explain_exit(name: str, *, source: str, status: int | None, log: str) -> KvmctlError:
    """`kvmctl.runtime.verdict.explain`."""
    error: KvmctlError = import_module("kvmctl.runtime.verdict").explain(name, source=source, status=status, log=log)
    return error


def no_spec(reference: str, roots: Roots) -> NotFound:
    """`kvmctl.runtime.listing.no_spec`."""
    error: NotFound = import_module("kvmctl.runtime.listing").no_spec(reference, roots)
    return error
