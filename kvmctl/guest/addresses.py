"""Duplicate address detection: for seconds the guest's kernel waits for others to claim its IPv6 addresses (RFC 4862).

It does nothing at all meanwhile, so that nobody sees from outside that it is not done.
"""

from __future__ import annotations

from typing import Final

from kvmctl.errors import AgentError
from kvmctl.guest.files import read_file
from kvmctl.guest.talk import Talk

_PATH: Final = "/proc/net/if_inet6"
"""A line for each address: itself, the interface's index, the prefix's length, the scope, flags, the name; in hex."""
_LENGTH_MAX: Final = 1 << 20
_FLAGS: Final = 4
_TENTATIVE: Final = 0x40
_FAILED: Final = 0x08
"""linux/if_addr.h: ``IFA_F_TENTATIVE``, and ``IFA_F_DADFAILED``, of one that was claimed and stays tentative."""


async def has_tentative(turn: Talk) -> bool:
    """Whether the guest waits for claims to an address; not where it does not say so. Raises DeadlineExceeded."""
    try:
        return lists_tentative(await read_file(turn, _PATH, limit=_LENGTH_MAX))
    except AgentError:
        return False  # a guest without IPv6, or without Linux, or whose files are none of ours


def lists_tentative(table: bytes) -> bool:
    """Whether there is an address in the kernel's `table` that may yet become the guest's own."""
    return any(_is_tentative(line.split()) for line in table.splitlines())


def _is_tentative(fields: list[bytes]) -> bool:
    try:
        flags = int(fields[_FLAGS], 16)
    except (IndexError, ValueError):
        return False
    return bool(flags & _TENTATIVE) and not flags & _FAILED
