"""Tap devices, opened by us and inherited by QEMU, so that QEMU needs no helper, no script and no privilege.

By ioctl and not by netlink: a start runs within an event loop, and pyroute2 brings one of its own. See
Documentation/networking/tuntap.rst, ``linux/if_tun.h``, ``linux/sockios.h`` and netdevice(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from kvmctl.errors import Busy, HostError, KvmctlError
from kvmctl.plan.model import Tap, VhostNet

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCBRADDIF = 0x8913, 0x8914, 0x89A2
_SIOCGIFHWADDR, _SIOCSIFHWADDR = 0x8927, 0x8924
_IFF_UP = 0x1
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INDEX = struct.Struct("16si20x")
_IFREQ_ADDRESS = struct.Struct("16sH6s16x")
_WITHOUT_PRIVILEGE = 'Run as root, or use a network of type "user", which needs no privilege.'


def open_tap(tap: Tap) -> list[int]:
    """A descriptor a queue of the tap device, up and on its bridge. Raises HostError, Busy. The caller closes them."""
    if tap.bridge is not None and tap.bridge not in _interfaces():
        raise HostError(
            f"{tap.key}.bridge: there is no bridge {tap.bridge!r}",
            hint=f"Make it: ip link add {tap.bridge} type bridge && ip link set {tap.bridge} up",
        )
    is_ours = tap.device not in _interfaces()
    descriptors: list[int] = []
    try:
        name = _open_queues(tap, descriptors)
        if tap.bridge is not None:
            _join(name, tap.bridge, key=tap.key, is_ours=is_ours)
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


def _open_queues(tap: Tap, descriptors: list[int]) -> str:
    """Fill `descriptors`, of which the caller takes care whatever happens; the interface's name."""
    name = tap.device or "kvmctl%d"
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if len(tap.fds) > 1 else 0)
    for _ in tap.fds:
        descriptors.append(_open("/dev/net/tun", key=tap.key))
        try:
            reply = fcntl.ioctl(descriptors[-1], _TUNSETIFF, _IFREQ_FLAGS.pack(name.encode(), flags))
        except OSError as error:
            raise _refused(tap, error) from error
        raw: bytes = _IFREQ_FLAGS.unpack(reply)[0]
        name = raw.rstrip(b"\0").decode()
    return name


def _refused(tap: Tap, error: OSError) -> KvmctlError:
    """The error for a tap that the kernel did not give us."""
    queues = "1 queue" if len(tap.fds) == 1 else f"{len(tap.fds)} queues"
    match error.errno:
        case errno.EPERM:
            hint = f"{_WITHOUT_PRIVILEGE} Or root makes one for you: ip tuntap add NAME mode tap user {os.geteuid()}"
            return HostError(f"{tap.key}: making a tap takes root, or CAP_NET_ADMIN", hint=hint)
        case errno.EBUSY if tap.device:
            hint = "A tap serves one machine at a time; without a name in the spec, the kernel finds one."
            return Busy(f"{tap.key}.device: the tap {tap.device!r} is in use", hint=hint)
        case errno.EINVAL if tap.device:
            hint = f"See what it is: ip -details link show {tap.device}"
            return HostError(f"{tap.key}.device: {tap.device!r} is there and is no tap with {queues}", hint=hint)
        case _:
            return HostError(f"{tap.key}: cannot make a tap with {queues}: {error.strerror}")


def _open(device: str, *, key: str) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{key}: cannot open {device!r}: {error.strerror}", hint=_WITHOUT_PRIVILEGE) from error


def _join(name: str, bridge: str, *, key: str, is_ours: bool) -> None:
    """Put interface `name` on `bridge` and set it up, unless root has done both before."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            if is_ours:
                _raise_address(control, name)
            if _bridge_of(name) != bridge:
                index = socket.if_nametoindex(name)
                fcntl.ioctl(control, _SIOCBRADDIF, _IFREQ_INDEX.pack(bridge.encode(), index))
            _set_up(control, name)
        except OSError as error:
            summary = f"{key}.bridge: cannot put {name!r} on {bridge!r}: {error.strerror}"
            if error.errno == errno.EOPNOTSUPP:
                summary = f"{key}.bridge: {bridge!r} is no bridge"
            raise HostError(
                summary, hint=_WITHOUT_PRIVILEGE if error.errno == errno.EPERM else "See: bridge link"
            ) from error


def _raise_address(control: socket.socket, name: str) -> None:
    # A bridge takes the lowest address of its ports for its own. Were that a tap's, it would change, and the host drop
    # off the network for a moment, whenever a machine comes or goes. libvirt's taps begin with fe, too.
    reply = fcntl.ioctl(control, _SIOCGIFHWADDR, _IFREQ_ADDRESS.pack(name.encode(), 0, b""))
    _, family, address = _IFREQ_ADDRESS.unpack(reply)
    fcntl.ioctl(control, _SIOCSIFHWADDR, _IFREQ_ADDRESS.pack(name.encode(), family, b"\xfe" + address[1:]))


def _set_up(control: socket.socket, name: str) -> None:
    flags: int = _IFREQ_FLAGS.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), 0)))[1]
    if not flags & _IFF_UP:
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), flags | _IFF_UP))


def _bridge_of(name: str) -> str | None:
    """The bridge that an interface is on; None without one."""
    try:
        return os.path.basename(os.readlink(f"/sys/class/net/{name}/brport/bridge"))
    except OSError:
        return None


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}
