"""Addresses of network cards that nobody has chosen: made from names, so that they are always the same. Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

LOCAL_PREFIX: Final = "52:54:00"
"""The prefix of QEMU's and libvirt's own addresses, locally administered."""


def derived_mac(name: str, index: int) -> str:
    """The address of the interface `index` of machine `name` when the spec gives none: always the same one."""
    digest = sha256(f"{name}\0{index}".encode()).digest()
    return ":".join((LOCAL_PREFIX, *(f"{octet:02x}" for octet in digest[:3])))
