"""What a guest's addresses are read from: QEMU's table of forwards, the agent's word, the host's neighbours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kvmctl.plan.model import Network
from kvmctl.runtime.ops import parse_usernet
from kvmctl.runtime.reach import Address, parse_forwards, parse_interfaces

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
TAP, USER = Network("net0", "tap", MAC), Network("net1", "user", OTHER)
USERNET = """\
Hub -1 (net0-netdev):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[ESTABLISHED]   40       127.0.0.1 39975       10.0.2.15    22     0     0\r
  TCP[HOST_FORWARD]  84       127.0.0.1 39975       10.0.2.15    22     0     0\r
  TCP[HOST_FORWARD]  85               * 8080        10.0.2.15    80     0     0\r
  UDP[HOST_FORWARD]  86       127.0.0.1  5353       10.0.2.15    53     0     0\r
"""


def interface(mac: str, *addresses: str) -> dict[str, object]:
    return {"name": "eth0", "hardware-address": mac, "ip-addresses": [{"ip-address": one} for one in addresses]}


def test_forwards_are_read_from_qemus_table() -> None:
    assert list(parse_forwards(parse_usernet(USERNET))) == [
        Address("127.0.0.1", "forward", 39975, 22),
        Address("127.0.0.1", "forward", 8080, 80),
    ]


def test_addresses_are_those_on_the_cards_we_gave_the_guest_ipv4_first() -> None:
    reply = [
        interface("00:00:00:00:00:00", "127.0.0.1"),
        interface(MAC.upper(), "fe80::1", "2001:db8::7", "192.0.2.7"),
        interface("02:42:00:00:00:00", "172.17.0.1"),
        interface(OTHER, "10.0.2.15"),
    ]
    assert parse_interfaces(reply, [USER, TAP]) == [
        Address("192.0.2.7", "agent", network="net0"),
        Address("2001:db8::7", "agent", network="net0"),
        Address("10.0.2.15", "agent", network="net1", is_reachable=False),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        None,
        {},
        "eth0",
        [None, 7, "eth0", {}],
        [{"hardware-address": MAC}],
        [{"hardware-address": [MAC], "ip-addresses": [{"ip-address": "192.0.2.7"}]}],
        [{"hardware-address": MAC, "ip-addresses": {"ip-address": "192.0.2.7"}}],
        [interface(MAC, "-oProxyCommand=reboot", "192.0.2.7 extra", "", "0.0.0.0", "::1")],
    ],
)
def test_what_a_guest_makes_up_is_no_address(reply: object) -> None:
    assert parse_interfaces(reply, [TAP]) == []


def test_an_address_is_shown_as_it_is_used() -> None:
    assert str(Address("127.0.0.1", "forward", 8080, 80)) == "127.0.0.1:8080"
    assert str(Address("2001:db8::7", "agent")) == "2001:db8::7"


@pytest.fixture
def namespace() -> Iterator[list[str]]:
    """A command prefix by which programs run in a network of their own."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and ip")
    name = f"kvmctl-reach-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        pytest.skip("this host allows no network namespaces")
    yield ["ip", "netns", "exec", name]
    subprocess.run(["ip", "netns", "delete", name], check=True)


def test_neighbours_are_those_the_kernel_knows_by_their_card(namespace: list[str]) -> None:
    for words in (
        f"link add br0 address {OTHER} type bridge",
        "link set br0 up",
        "address add 192.0.2.1/24 dev br0",
        f"neighbour add 192.0.2.7 lladdr {MAC} dev br0 nud reachable",
        f"neighbour add fe80::7 lladdr {MAC} dev br0 nud stale",
        "neighbour add 192.0.2.8 dev br0 nud failed",
        "neighbour add 192.0.2.9 lladdr 52:54:00:00:00:09 dev br0 nud reachable",
    ):
        subprocess.run([*namespace, "ip", *words.split()], check=True)
    script = (
        f"from kvmctl.runtime.neighbours import find_neighbours as find; print([n.address for n in find(['{MAC}'])])"
    )
    shown = subprocess.run(
        [*namespace, sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "['192.0.2.7', 'fe80::7%br0']\n"
