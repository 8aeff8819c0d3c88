"""Tap devices, opened by us and inherited by QEMU, so that QEMU needs no helper, no script and no privilege.

See Documentation/networking/tuntap.rst and ``linux/if_tun.h``.
"""

from __future__ import annotations

import fcntl
import os
import struct

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from kvmctl.errors import HostError
from kvmctl.plan.model import Tap, VhostNet

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
_IFREQ = struct.Struct("16sH22x")
_NAME_MAX = 15


def open_tap(tap: Tap) -> list[int]:
    """A descriptor a queue of the tap device, put on its bridge. Raises HostError. The caller closes them."""
    if tap.device is not None and len(tap.device) > _NAME_MAX:
        raise HostError(f"{tap.key}: the interface name {tap.device!r} is longer than {_NAME_MAX} characters")
    descriptors: list[int] = []
    name = tap.device or "kvmctl%d"
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if len(tap.fds) > 1 else 0)
    try:
        for _ in tap.fds:
            descriptors.append(_open("/dev/net/tun", key=tap.key))
            name = _attach(descriptors[-1], name, flags, key=tap.key)
        if tap.bridge is not None:
            _enslave(name, tap.bridge, key=tap.key)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors


def open_vhost_net(vhost: VhostNet) -> list[int]:
    """``/dev/vhost-net``, once a queue. Raises HostError. The caller closes them."""
    descriptors: list[int] = []
    try:
        descriptors.extend(_open("/dev/vhost-net", key=vhost.key) for _ in vhost.fds)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors


def _open(device: str, *, key: str) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"{key}: cannot open {device!r}: {error.strerror}",
            hint='Run as root, or use a network of type "user", which needs no privilege.',
        ) from error


def _attach(descriptor: int, name: str, flags: int, *, key: str) -> str:
    """Make the open tun descriptor a queue of interface `name`; the name the kernel gave it."""
    request = _IFREQ.pack(name.encode(), flags)
    try:
        reply = fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError as error:
        raise HostError(
            f"{key}: cannot make the tap device {name!r}: {error.strerror}",
            hint="It may be another machine's, or it needs CAP_NET_ADMIN: see `ip tuntap`.",
        ) from error
    raw: bytes = _IFREQ.unpack(reply)[0]
    return raw.rstrip(b"\0").decode()


def _enslave(name: str, bridge: str, *, key: str) -> None:
    with IPRoute() as route:
        found = route.link_lookup(ifname=bridge)
        if not found:
            raise HostError(
                f"{key}: there is no bridge {bridge!r}",
                hint=f"Make it: ip link add {bridge} type bridge && ip link set {bridge} up",
            )
        index = route.link_lookup(ifname=name)[0]
        try:
            route.link("set", index=index, master=found[0], state="up")
        except NetlinkError as error:
            raise HostError(f"{key}: cannot put {name!r} on the bridge {bridge!r}: {error}") from error
