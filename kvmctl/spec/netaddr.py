"""Addresses and ports: MAC addresses, port forwards, interfaces of the host, places of sockets. May import pydantic."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, ip_address
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from kvmctl.spec.hostpath import anchor_path, base_of
from kvmctl.spec.model import reject
from kvmctl.spec.units import matching, string

_MAC: Final = r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}"
_MAC_ALLOWED: Final = "six pairs of hex digits, like '52:54:00:12:34:56'"


def _unicast(mac: str) -> str:
    if int(mac[:2], 16) & 1:
        raise reject("is a multicast address", allowed="a unicast one: its first octet is even, like '52:54:00:...'")
    if not mac.strip("0:"):
        raise reject("is no address at all", allowed=_MAC_ALLOWED)
    return mac.lower()


MacAddress = Annotated[
    str,
    BeforeValidator(matching(_MAC, kind="a MAC address", allowed=_MAC_ALLOWED)),
    AfterValidator(_unicast),
    WithJsonSchema({"type": "string", "pattern": f"^{_MAC}$"}),
]
"""A unicast Ethernet address in lower case."""

# The kernel cuts longer names off without a word (IFNAMSIZ in <linux/if.h>).
_INTERFACE: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"

Interface = Annotated[
    str,
    BeforeValidator(
        matching(_INTERFACE, kind="a network interface's name", allowed="1 to 15 letters, digits, '_', '.' and '-'")
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{_INTERFACE}$"}),
]
"""The name of a network interface of the host."""

_ENDPOINT_ALLOWED: Final = "a path with a slash ('./link.sock'), or 'ADDRESS:PORT' ('127.0.0.1:5000', '[::1]:5000')"


def _parse_endpoint(value: Any, info: ValidationInfo) -> str:
    place = string(value)
    if "/" in place:
        return anchor_path(place, base_of(info))
    try:
        _, host, port = split_endpoint(place)
        ip_address(host)
    except ValueError:
        host, port = "", 0
    if not host or not 0 < port <= 65535:
        raise reject("is neither a path nor an address with a port", allowed=_ENDPOINT_ALLOWED)
    return place


Endpoint = Annotated[str, BeforeValidator(_parse_endpoint)]
"""The place of a socket: an absolute path, or ``ADDRESS:PORT``."""


def split_endpoint(endpoint: str) -> tuple[str, str, int]:
    """Path, host and port of an `Endpoint`; the path is empty when there is an address, the host when there is not."""
    if "/" in endpoint:
        return endpoint, "", 0
    host, _, port = endpoint.rpartition(":")
    return "", host.strip("[]"), int(port)


class PortForward(NamedTuple):
    """A port of the host that leads to one of the guest. Host port 0: QEMU picks one."""

    protocol: str
    host: str
    host_port: int
    guest: str
    guest_port: int

    def __str__(self) -> str:
        protocol = "" if self.protocol == "tcp" else f"{self.protocol}:"
        guest = f"{self.guest}:" if self.guest else ""
        return f"{protocol}{self.host}:{self.host_port}->{guest}{self.guest_port}"


_FORWARD: Final = (
    r"(?:(?P<protocol>tcp|udp):)?(?:(?P<host>[^:\s>]*):)?(?P<host_port>\d{1,5})"
    r"->(?:(?P<guest>[^:\s>]*):)?(?P<guest_port>\d{1,5})"
)
_FORWARD_ALLOWED: Final = "'[tcp:|udp:][HOST-ADDRESS:]HOST-PORT->[GUEST-ADDRESS:]GUEST-PORT', like '127.0.0.1:2222->22'"


def _parse_forward(value: Any) -> PortForward:
    if isinstance(value, PortForward):
        return value
    match = re.fullmatch(_FORWARD, string(value), re.ASCII)
    if match is None:
        raise reject("is not a port forward", allowed=_FORWARD_ALLOWED)
    host_port, guest_port = int(match["host_port"]), int(match["guest_port"])
    if host_port > 65535 or not 0 < guest_port <= 65535:
        raise reject("has a port that does not exist", allowed="ports are 1 to 65535; host port 0 lets QEMU pick one")
    return PortForward(
        protocol=match["protocol"] or "tcp",
        host=_ipv4(match["host"] or "127.0.0.1"),
        host_port=host_port,
        guest=_ipv4(match["guest"]) if match["guest"] else "",
        guest_port=guest_port,
    )


def _ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise reject(f"{text!r} is not an IPv4 address", allowed=_FORWARD_ALLOWED) from None


Forward = Annotated[
    PortForward,
    BeforeValidator(_parse_forward),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:2222->22"]}),
]
"""A port forward as one writes it: ``127.0.0.1:2222->22``."""
