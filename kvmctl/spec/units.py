"""The small types of a spec: each takes what one writes, refuses what could be misread, and holds one unit.

Sizes are binary and say so: ``"512MiB"``, ``"1.5GiB"``, or a whole number of bytes. ``"1G"`` and ``"1GB"`` are refused:
QEMU takes the one for 2^30 bytes, disk makers take the other for 10^9, and a machine with 7 % less memory than meant
is a fault that nobody finds. May import pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from ipaddress import AddressValueError, IPv4Address
from posixpath import join
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema

from kvmctl.spec.model import reject

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

_UNITS: Final = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_SIZE_ALLOWED: Final = "a size is written '512MiB' (B, KiB, MiB, GiB, TiB), or as a whole number of bytes"


def size_text(size: int) -> str:
    """`size` in the largest unit that divides it: ``1536MiB``."""
    for unit, factor in reversed(_UNITS.items()):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def _parse_size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise reject("a size can't be negative", allowed=_SIZE_ALLOWED)
        return value
    if not isinstance(value, str):
        raise reject("is not a size", allowed=_SIZE_ALLOWED)
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise reject("is not a size", allowed=_SIZE_ALLOWED)
    number, unit = match.groups()
    return _bytes(Decimal(number), number, unit)


def _bytes(amount: Decimal, number: str, unit: str) -> int:
    if unit not in _UNITS:
        letter = unit[:1].upper()
        right = f"{letter}iB" if letter and letter in "KMGT" else "MiB"
        message = f"the unit {unit!r} is not a binary one" if unit else "a size in quotes needs a unit"
        raise reject(message, allowed=f"did you mean '{number}{right}'? {_SIZE_ALLOWED}")
    size = amount * _UNITS[unit]
    if size != int(size):
        raise reject("is not a whole number of bytes", allowed=_SIZE_ALLOWED)
    return int(size)


ByteSize = Annotated[
    int,
    BeforeValidator(_parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([KMGT]i)?B$"},
                {"type": "integer", "minimum": 0},
            ]
        }
    ),
]
"""Bytes."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise reject("must be text in quotes")
    return value


def has_control_characters(text: str) -> bool:
    """Whether `text` holds a newline, a NUL or anything else that is no character one can see."""
    return any(not (char.isprintable()) for char in text)


def _parse_line(value: Any) -> str:
    text = _text(value)
    if has_control_characters(text):
        raise reject("has a line break or another control character in it", allowed="one line of text")
    return text


Line = Annotated[str, BeforeValidator(_parse_line)]
"""Text on one line; commas, quotes and everything else printable are data."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_ALLOWED: Final = "1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit, without '..'"


def _parse_name(value: Any) -> str:
    name = _text(value)
    if not _NAME.fullmatch(name) or ".." in name:
        raise reject("is not a machine's name", allowed=NAME_ALLOWED)
    return name


MachineName = Annotated[
    str,
    BeforeValidator(_parse_name),
    WithJsonSchema({"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"}),
]
"""A machine's name: it names directories and is QEMU's ``-name``."""

_ID: Final = re.compile(r"[a-z][a-z0-9_-]{0,23}")


def _parse_id(value: Any) -> str:
    text = _text(value)
    if not _ID.fullmatch(text):
        raise reject(
            "is not an id",
            allowed="1 to 24 lower-case letters, digits, '_' and '-', beginning with a letter",
        )
    return text


Id = Annotated[
    str, BeforeValidator(_parse_id), WithJsonSchema({"type": "string", "pattern": r"^[a-z][a-z0-9_-]{0,23}$"})
]
"""A device's id in QEMU; short, because QEMU's block nodes are named after it and may have 31 characters."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _parse_uuid(value: Any) -> str:
    text = _text(value).lower()
    if not _UUID.fullmatch(text):
        raise reject("is not a UUID", allowed="like '6ba7b810-9dad-41d1-80b4-00c04fd430c8'")
    return text


Uuid = Annotated[str, BeforeValidator(_parse_uuid), WithJsonSchema({"type": "string", "format": "uuid"})]
"""A UUID in lower case."""

_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def _parse_mac(value: Any) -> str:
    text = _text(value).lower()
    if not _MAC.fullmatch(text):
        raise reject("is not a MAC address", allowed="six pairs of hex digits, like '52:54:00:12:34:56'")
    if int(text[:2], 16) & 1:
        raise reject("is a multicast address", allowed="a unicast one: its first octet is even, like '52:54:00:...'")
    if text == "00:00:00:00:00:00":
        raise reject("is no address")
    return text


MacAddress = Annotated[
    str,
    BeforeValidator(_parse_mac),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"}),
]
"""A unicast Ethernet address in lower case."""


def anchor_path(value: Any, base: str | None) -> str:
    """`value` as an absolute host path; a relative one counts from the directory `base`."""
    path = _text(value)
    if not path:
        raise reject("is an empty path")
    if has_control_characters(path):
        raise reject("has a line break or another control character in it", allowed="a path on one line")
    if path.startswith("~"):
        raise reject("'~' is not expanded in a spec", allowed="write the path out, or begin with './' for such a file")
    if path.startswith("/"):
        return path
    if base is None:
        raise reject("is a relative path, and this machine was read from no file it could count from")
    return join(base, path.removeprefix("./"))


def base_of(info: ValidationInfo) -> str | None:
    """The directory that relative paths count from, from the validation's context."""
    context = info.context
    return context.get("base") if isinstance(context, dict) else None


def _parse_path(value: Any, info: ValidationInfo) -> str:
    return anchor_path(value, base_of(info))


HostPath = Annotated[str, BeforeValidator(_parse_path)]
"""A path on the host, absolute once read; relative ones count from the spec's directory."""


def path_or(*words: str) -> Callable[[Any, ValidationInfo], str]:
    """A validator that takes one of `words` as it is, and a path on the host."""

    def parse(value: Any, info: ValidationInfo) -> str:
        return value if value in words else anchor_path(value, base_of(info))

    return parse


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


_FORWARD: Final = re.compile(
    r"(?:(?P<protocol>tcp|udp):)?(?:(?P<host>[^:\s>]*):)?(?P<host_port>\d+)->(?:(?P<guest>[^:\s>]*):)?(?P<guest_port>\d+)"
)
_FORWARD_ALLOWED: Final = "'[tcp:|udp:][HOST-ADDRESS:]HOST-PORT->[GUEST-ADDRESS:]GUEST-PORT', like '127.0.0.1:2222->22'"


def _parse_forward(value: Any) -> PortForward:
    if isinstance(value, PortForward):
        return value
    match = _FORWARD.fullmatch(_text(value))
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
