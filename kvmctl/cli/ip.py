"""``kvmctl ip``."""

from __future__ import annotations

from kvmctl import Address, NotFound, find_addresses
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Json, Name


def ip(name: Name, json: Json = False) -> None:
    """Print where a machine is reached by the network: the best way, or with --json all.

    In this order: a port of this host that leads to it, as ADDRESS:PORT; an address that its guest agent tells; one
    that this host's table of neighbours has. An address within a user network comes last, since nothing gets there.

    \b
    kvmctl ip web
    kvmctl ip web --json | jq -r '.addresses[] | select(.source == "agent").address'
    """
    addresses = session.on_machine(name, find_addresses)
    if json:
        output.print_json({"machine": name, "addresses": [_record(address) for address in addresses]})
        return
    if not addresses:
        raise NotFound(
            f"no address of machine {name!r} is known",
            detail="no port is forwarded to it; neither its agent nor this host's table of neighbours tells of one",
            hint=f"It may not be up yet: kvmctl wait {name} --for agent",
        )
    output.emit(str(addresses[0]))
    if not addresses[0].is_reachable:
        output.warn(f"nothing on this host gets there: it is within a network of {name!r} alone; see kvmctl ssh {name}")


def _record(address: Address) -> dict[str, object]:
    return {
        "address": address.address,
        "port": address.port,
        "guest_port": address.guest_port,
        "source": address.source,
        "network": address.network or None,
        "reachable": address.is_reachable,
    }
