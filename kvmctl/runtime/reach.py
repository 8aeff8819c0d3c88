"""How a guest is reached by the network: the ports that lead to it and its addresses, and where each is known from.

Asked in the order of what is known for certain: forwards of its user networks, then the guest's agent, then the tables
of neighbours of this host. What is on a network of its own, behind a stream, is told and is no way in.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, Final

from kvmctl import files
from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError, Unreachable
from kvmctl.guest.agent import Agent
from kvmctl.guest.ssh import Login, Source, host_alias, knows_host
from kvmctl.plan.model import Network
from kvmctl.runtime import deferred, leftovers, ops
from kvmctl.runtime.agentline import connect_agent
from kvmctl.runtime.events import derive
from kvmctl.runtime.handle import ASK_SECONDS, Handle
from kvmctl.runtime.journal import read_events
from kvmctl.runtime.records import stems

SSH_PORT: Final = 22
_FORWARD: Final = re.compile(
    r"tcp:(?P<host>[^:]+):(?P<port>\d+)->(?P<guest>[\d.]+):(?P<guest_port>\d+)", re.ASCII
)  # fmt: skip
_ANY: Final = "0.0.0.0"  # noqa: S104  # it is read here, not listened on
_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Address:
    """One address by which the guest is known, or a port of the host that leads to a port of it."""

    address: str
    source: Source
    port: int | None = None
    """The host's port, of a forward."""
    guest_port: int | None = None
    network: str = ""
    """The card's id in QEMU, where it is known."""
    is_reachable: bool = True
    """Whether this host gets there; not to the inside of a user network, and not to where only guests are."""

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.port and ":" in self.address else self.address
        return f"{host}:{self.port}" if self.port else self.address


async def find_addresses(vm: Handle) -> list[Address]:
    """Everything by which the guest of a running machine is known, the best first; empty where nothing is.

    Raises what asking QEMU's monitor does.
    """
    found = [*await _forwards(vm), *await _asked_of_agent(vm)]
    known = {address.address for address in found}
    found += [address for address in await _neighbours(vm) if address.address not in known]
    return sorted(found, key=lambda one: not one.is_reachable)


async def find_login(vm: Handle, *, user: str | None = None) -> Login:
    """The way to log in over ssh, as `user` or whom the spec names.

    On a user network without a forward to port 22, one on a free port of 127.0.0.1 is added, which lasts for the run.
    What killed clients have left in the guest is undone first: nobody can log in to one whose file systems are frozen.
    Raises Unreachable where there is no way, QmpError, and what asking QEMU's monitor does.
    """
    await _settle(vm)
    host, port, source = await _find_way(vm)
    paths = vm.paths
    is_ours = _is_there(paths.ssh_key)
    keeps_its_key = is_ours or any(disk.path and not disk.read_only for disk in vm.plan.disks)
    known_hosts = paths.known_hosts if keeps_its_key else paths.known_hosts_of_run
    files.make_private_dir(os.path.dirname(known_hosts))  # ssh will want to write there whom it has met
    return Login(
        machine=vm.name,
        host=host,
        port=port,
        source=source,
        known_hosts=known_hosts,
        is_pinned=_is_there(paths.ssh_host_key) and knows_host(_read(known_hosts), host_alias(vm.name)),
        user=user if user is not None else vm.plan.guest.user,
        key=paths.ssh_key if is_ours else None,
    )


def has_likely_login(vm: Handle) -> bool:
    """Whether the spec means the guest to be logged in to: keys were made for it, or port 22 is forwarded.

    Keys are good for nothing where no network is: a template has no card that each of its forks has of its own.
    """
    networks = vm.plan.networks
    if _is_there(vm.paths.ssh_key) and any(network.type == "user" or _leads_out(network) for network in networks):
        return True
    given = (forward for network in networks for forward in network.forwards)
    return any(forward.endswith((f">{SSH_PORT}", f":{SSH_PORT}")) for forward in given)


async def _settle(vm: Handle) -> None:
    """Undo in the guest what killed clients have left there, where its agent answers; one that does not is no error."""
    if stems(vm.paths) and (agent := _find_agent(vm)):
        with suppress(AgentError, DeadlineExceeded):
            await leftovers.settle(vm.paths, agent)


async def _find_way(vm: Handle) -> tuple[str, int, Source]:
    forwarded = await _forward_to_ssh(vm)
    if forwarded is not None:
        return forwarded.address, forwarded.port or 0, "forward"
    for address in [*await _asked_of_agent(vm), *await _neighbours(vm)]:
        if address.is_reachable:
            return address.address, SSH_PORT, address.source
    raise _no_way(vm)


async def _forward_to_ssh(vm: Handle) -> Address | None:
    """The port that leads to the guest's ssh server; one is added where a user network has none."""
    users = [network for network in vm.plan.networks if network.type == "user"]
    if not users:
        return None
    async with vm.monitor() as monitor:  # one turn for both, so that two of us don't add one each
        if found := _to_ssh(await ops.query_forwards(monitor)):
            return found
        await ops.add_forward(monitor, netdev=_netdev(users[0]), rule=f"tcp:{_LOOPBACK}:0-:{SSH_PORT}")
        return _to_ssh(await ops.query_forwards(monitor))


def _to_ssh(forwards: Iterable[str]) -> Address | None:
    return next((found for found in parse_forwards(forwards) if found.guest_port == SSH_PORT), None)


def parse_forwards(forwards: Iterable[str]) -> Iterator[Address]:
    """The TCP forwards among those that `ops.query_forwards` gives."""
    for forward in forwards:
        if match := _FORWARD.fullmatch(forward):
            host = _LOOPBACK if match["host"] in {_ANY, "*"} else match["host"]
            yield Address(host, "forward", int(match["port"]), int(match["guest_port"]))


async def _forwards(vm: Handle) -> list[Address]:
    if not any(network.type == "user" for network in vm.plan.networks):
        return []
    async with vm.monitor() as monitor:
        return list(parse_forwards(await ops.query_forwards(monitor)))


async def _asked_of_agent(vm: Handle) -> list[Address]:
    """The addresses the guest says it has on the cards we gave it; none where it says nothing."""
    agent = _find_agent(vm)
    with suppress(KvmctlError):
        if agent is not None:
            return parse_interfaces(await agent.execute("guest-network-get-interfaces"), vm.plan.networks)
    return []


def _find_agent(vm: Handle) -> Agent | None:
    """The guest's agent, as far as one can tell that it is there; None where it is not."""
    kind = vm.plan.guest.agent
    if kind is None or (kind == "virtio" and not derive(read_events(vm.paths)).agent_open):
        return None
    return Agent(partial(connect_agent, vm.paths), patience=ASK_SECONDS)


def parse_interfaces(reply: Any, networks: Iterable[Network]) -> list[Address]:
    """The addresses in the agent's ``guest-network-get-interfaces`` that are on one of `networks`, IPv4 first.

    What a guest makes up is left out, and so are loopback, what is only good on its link, and a guest's own bridges.
    """
    by_mac = {network.mac.lower(): network for network in networks if network.mac}
    found = []
    for interface in reply if isinstance(reply, list) else ():
        network = by_mac.get(str(_get(interface, "hardware-address")).lower())
        addresses = _get(interface, "ip-addresses")
        for record in addresses if network and isinstance(addresses, list) else ():
            address = _global_address(_get(record, "ip-address"))
            if network and address:
                found.append(Address(address, "agent", network=network.id, is_reachable=_leads_out(network)))
    return sorted(found, key=lambda one: (not one.is_reachable, ":" in one.address))


async def _neighbours(vm: Handle) -> list[Address]:
    networks = {network.mac.lower(): network for network in vm.plan.networks if network.mac and _leads_out(network)}
    if not networks:
        return []
    # pyroute2 runs an event loop of its own, which can't be within ours: hence the thread.
    found = await asyncio.to_thread(deferred.find_neighbours, list(networks))
    addresses = [Address(one.address, "neighbour", network=networks[one.mac].id) for one in found]
    return sorted(addresses, key=lambda one: "%" in one.address)


def _leads_out(network: Network) -> bool:
    """Whether the guest on it has an address that this host may get to."""
    return network.type == "tap"


def _netdev(network: Network) -> str:
    return f"{network.id}-netdev"


def _get(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, Mapping) else None


def _global_address(text: object) -> str | None:
    try:
        address = ip_address(str(text))
    except ValueError:
        return None
    return None if address.is_loopback or address.is_link_local or address.is_unspecified else str(address)


def _no_way(vm: Handle) -> Unreachable:
    if not any(_leads_out(network) for network in vm.plan.networks):
        return Unreachable(
            f"machine {vm.name!r} has no network by which this host could get to it",
            hint="Give it one in the spec: [[networks]] with type = 'user'; or try kvmctl console " + vm.name,
        )
    return Unreachable(
        f"nothing is known of where the guest of {vm.name!r} is on its network",
        detail="neither its agent nor this host's table of neighbours has an address of it",
        hint=f"Once it is up and has spoken to this host it will be known; look with kvmctl console {vm.name}",
    )


def _is_there(path: str) -> bool:
    return os.path.exists(path)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
