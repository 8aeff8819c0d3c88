"""Doors to the modules that need pyroute2, which is slow to import: paid for by who goes through."""

from __future__ import annotations

from importlib import import_module

from kvmctl.plan.model import Tap, VhostNet


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
