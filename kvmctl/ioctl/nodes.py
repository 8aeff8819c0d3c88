"""Device nodes, probed by opening them: how far that came, and what a vhost or tun device offers.

Opening is the only honest test: a node may exist without its driver, be readable by nobody, or be kept away by a
container's device rules; and opening ``/dev/vhost-net`` makes the kernel load its module.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kvmctl.ioctl.abi import Request
from kvmctl.ioctl.cpuid import named_bits
from kvmctl.ioctl.handle import Handle, Ioctl, system_ioctl
from kvmctl.ioctl.ioc import io, ior

State: TypeAlias = Literal["usable", "absent", "denied", "broken"]
"""How far opening a device came; ``broken`` is a node that is there and does not work."""

VHOST_GET_FEATURES: Final = Request("VHOST_GET_FEATURES", ior(0xAF, 0x00, 8))
VHOST_SET_OWNER: Final = Request("VHOST_SET_OWNER", io(0xAF, 0x01))
TUNGETFEATURES: Final = Request("TUNGETFEATURES", ior(ord("T"), 207, 4))

_VHOST_BITS: Final[Mapping[int, str]] = {
    15: "mrg-rxbuf",
    24: "notify-on-empty",
    26: "log-all",
    27: "net-hdr",
    28: "ring-indirect-desc",
    29: "ring-event-idx",
    32: "version-1",
    33: "access-platform",
    35: "in-order",
    40: "ring-reset",
}
"""<linux/vhost_types.h>, <linux/virtio_config.h> and <linux/virtio_net.h>."""

_TUN_BITS: Final[Mapping[int, str]] = {
    0: "tun",
    1: "tap",
    4: "napi",
    5: "napi-frags",
    8: "multi-queue",
    12: "no-pi",
    13: "one-queue",
    14: "vnet-hdr",
}
"""<linux/if_tun.h>; bits above 15 are no flags."""


@dataclass(frozen=True, slots=True)
class Node:
    """What opening a device node found; `reason` is empty when it is usable."""

    path: str
    state: State
    reason: str = ""
    features: tuple[str, ...] = ()


def open_failure(path: str, error: OSError) -> tuple[State, str]:
    """What a failure to open a device node means, and how to say it."""
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "absent", f"{path} does not exist"
        case errno.EACCES:
            return "denied", f"no permission to open {path}"
        case errno.EPERM:
            return "denied", f"opening {path} is forbidden here, whatever its mode (a container's device rules?)"
        case errno.ENODEV | errno.ENXIO:
            return "broken", f"{path} exists, but no driver stands behind it"
        case _:
            return "broken", f"{path} can't be opened: {error.strerror}"


def probe_vhost(path: str, *, ioctl: Ioctl = system_ioctl) -> Node:
    """A vhost device (``/dev/vhost-net``, ``/dev/vhost-vsock``), taken into possession and given back."""
    return _probe(path, _ask_vhost, ioctl=ioctl)


def probe_tun(path: str = "/dev/net/tun", *, ioctl: Ioctl = system_ioctl) -> Node:
    """The maker of tap devices. That it opens does not mean one may make any: that takes CAP_NET_ADMIN."""
    return _probe(path, _ask_tun, ioctl=ioctl)


def _probe(path: str, ask: Callable[[Handle], tuple[str, ...]], *, ioctl: Ioctl) -> Node:
    try:
        handle = Handle.open(path, ioctl=ioctl)
    except OSError as error:
        state, reason = open_failure(path, error)
        return Node(path, state, reason)
    with handle:
        try:
            return Node(path, "usable", features=ask(handle))
        except OSError as error:
            return Node(path, "broken", f"{path} opens, but {error}")


def _ask_vhost(handle: Handle) -> tuple[str, ...]:
    buffer = bytearray(8)
    # SAFETY: the kernel writes one 64-bit word.
    handle.request(VHOST_GET_FEATURES, buffer)
    # Becoming the owner starts the kernel's worker thread, which is what fails where threads or locked memory run
    # out; closing the descriptor ends it.
    handle.request(VHOST_SET_OWNER)
    return named_bits(int.from_bytes(buffer, "little"), _VHOST_BITS)


def _ask_tun(handle: Handle) -> tuple[str, ...]:
    buffer = bytearray(4)
    # SAFETY: the kernel writes one 32-bit word.
    handle.request(TUNGETFEATURES, buffer)
    return named_bits(int.from_bytes(buffer, "little"), _TUN_BITS)
