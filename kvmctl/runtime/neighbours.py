"""Who is on this host's networks, by the kernel's tables of neighbours (rtnetlink(7), ``RTM_GETNEIGH``).

They know whom this host has talked to lately, or who has announced himself: a guest that never did is not in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_NUD_INCOMPLETE: Final = 0x01
_NUD_FAILED: Final = 0x20
"""States in which the address was asked for and nobody answered (linux/neighbour.h)."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An address of whoever has `mac`; one of IPv6's that is only good on its link has the interface behind a ``%``."""

    address: str
    mac: str


def find_neighbours(macs: Collection[str]) -> list[Neighbour]:
    """The neighbours with one of `macs`, IPv4 before IPv6; none where the kernel does not tell."""
    wanted = {mac.lower() for mac in macs}
    try:
        with IPRoute() as route:
            names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in route.get_links()}
            found = [neighbour for record in route.get_neighbours() for neighbour in _read(record, names)]
    except (OSError, NetlinkError):
        return []
    ours = {neighbour for neighbour in found if neighbour.mac in wanted}
    return sorted(ours, key=lambda one: (":" in one.address, one.address))


def _read(record: object, names: dict[int, str]) -> Iterator[Neighbour]:
    get = record.get_attr  # type: ignore[attr-defined]  # pyroute2 has no types
    address, mac = get("NDA_DST"), get("NDA_LLADDR")
    if not address or not mac or record["state"] & (_NUD_INCOMPLETE | _NUD_FAILED):  # type: ignore[index]
        return
    scope = f"%{names.get(record['ifindex'], '')}" if address.lower().startswith("fe80:") else ""  # type: ignore[index]
    yield Neighbour(f"{address}{scope}", mac.lower())
