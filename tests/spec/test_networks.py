"""Network cards and what they are plugged into."""

from __future__ import annotations

import factory
import pytest

from kvmctl.plan.model import Network, Port, Tap, VhostNet
from kvmctl.plan.option import Fd, Fds

LONG = "/" + "x" * 200


def netdev(text: str, **facts: object) -> dict[str, object]:
    """The one ``-netdev`` of a spec."""
    return dict(factory.only(factory.plan(text, **facts), "netdev").body)


def test_a_user_network_forwards_ports() -> None:
    forward = "['127.0.0.1:2222->22', 'udp:5353->53', '0.0.0.0:0->10.0.2.15:80']"
    made = factory.plan(f"[[networks]]\ntype = 'user'\nforward = {forward}\nrestrict = true")
    assert factory.only(made, "netdev").body == {
        "type": "user",
        "id": "net0-netdev",
        "restrict": True,
        "hostfwd": [
            {"str": "tcp:127.0.0.1:2222-:22"},
            {"str": "udp:127.0.0.1:5353-:53"},
            {"str": "tcp:0.0.0.0:0-10.0.2.15:80"},
        ],
    }
    assert made.ports == (Port("127.0.0.1", 2222, "networks[0].forward[0]"),)
    (network,) = made.networks
    assert network.forwards == ("127.0.0.1:2222->22", "udp:127.0.0.1:5353->53", "0.0.0.0:0->10.0.2.15:80")


def test_addresses_are_derived_from_the_machine_and_the_index() -> None:
    text = "[[networks]]\ntype = 'user'\n" * 2
    web, again = factory.plan(text), factory.plan(text)
    other = factory.plan("name = 'db'\n" + text)
    macs = [network.mac for made in (web, other) for network in made.networks]
    assert len(set(macs)) == 4
    assert all(mac and mac.startswith("52:54:00:") for mac in macs)
    assert web.networks == again.networks


def test_a_card_s_place_does_not_depend_on_the_disks() -> None:
    net = "[[networks]]\ntype = 'user'\n"
    alone, beside = factory.plan(net), factory.plan(net + "[[disks]]\npath = 'a.raw'\n")
    assert factory.device(alone, "net0-port") == factory.device(beside, "net0-port")
    assert factory.device(alone, "net0")["bus"] == "net0-port"


@pytest.mark.parametrize("model", ["virtio", "e1000e", "e1000", "rtl8139"])
def test_the_guest_sees_the_card_it_was_given(model: str) -> None:
    made = factory.plan(f"[[networks]]\ntype = 'user'\nmodel = '{model}'\nmac = '52:54:00:AB:cd:EF'\nboot_index = 3")
    card = factory.device(made, "net0")
    assert card["driver"] == {"virtio": "virtio-net-pci"}.get(model, model)
    assert (card["mac"], card["bootindex"]) == ("52:54:00:ab:cd:ef", 3)
    assert made.networks == (Network("net0", "user", "52:54:00:ab:cd:ef"),)


# --- tap


def test_a_tap_is_opened_by_the_launcher() -> None:
    made = factory.plan("[[networks]]\ntype = 'tap'\nbridge = 'br0'\nid = 'lan'")
    assert factory.only(made, "netdev").body == {
        "type": "tap",
        "id": "lan-netdev",
        "fd": Fd("lan-tap0"),
        "vhost": True,
        "vhostfd": Fd("lan-vhost0"),
    }
    assert Tap(("lan-tap0",), "networks[0]", None, "br0") in made.fds
    assert VhostNet(("lan-vhost0",), "networks[0].vhost") in made.fds


def test_each_pair_of_queues_has_its_descriptors() -> None:
    made = factory.plan("[[networks]]\ntype = 'tap'\ndevice = 'tap7'\nqueues = 3")
    taps, vhosts = (tuple(f"net0-{kind}{queue}" for queue in range(3)) for kind in ("tap", "vhost"))
    body = factory.only(made, "netdev").body
    assert (body["fds"], body["vhostfds"]) == (Fds(taps), Fds(vhosts))
    assert Tap(taps, "networks[0]", "tap7", None) in made.fds
    assert {"mq": True, "vectors": 8}.items() <= factory.device(made, "net0").items()


@pytest.mark.parametrize("keys", ["vhost = 'off'", "model = 'e1000'"])
def test_vhost_is_left_alone_where_it_is_not_wanted(keys: str) -> None:
    assert "vhostfd" not in netdev(f"[[networks]]\ntype = 'tap'\n{keys}")


def test_vhost_is_taken_where_it_is_and_demanded_where_it_is_asked_for() -> None:
    without = factory.host(vhost_net=False)
    assert netdev("[[networks]]\ntype = 'tap'", host=without)["vhost"] is False
    assert factory.rejected("[[networks]]\ntype = 'tap'\nvhost = 'on'", host=without) == [
        (
            "networks[0].vhost: this host has no usable /dev/vhost-net (given 'on'); "
            "modprobe vhost_net, and permission for /dev/vhost-net; or vhost = 'auto'"
        )
    ]


def test_a_tap_needs_a_host_with_taps() -> None:
    assert factory.rejected("[[networks]]\ntype = 'tap'", host=factory.host(tun=False)) == [
        (
            "networks[0].type: this host has no usable /dev/net/tun (given 'tap'); "
            "modprobe tun, and permission for /dev/net/tun; or type = 'user'"
        )
    ]


# --- links


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            "type = 'stream'\naddress = './link.sock'\nserver = true",
            {"server": True, "addr": {"type": "unix", "path": "/specs/link.sock"}},
        ),
        (
            "type = 'stream'\naddress = '[::1]:5000'",
            {"server": False, "addr": {"type": "inet", "host": "::1", "port": "5000"}},
        ),
        (
            "type = 'dgram'\nlocal = './a'\nremote = './b'",
            {"local": {"type": "unix", "path": "/specs/a"}, "remote": {"type": "unix", "path": "/specs/b"}},
        ),
        (
            "type = 'dgram'\nremote = '230.0.0.1:1234'",
            {"remote": {"type": "inet", "host": "230.0.0.1", "port": "1234"}},
        ),
    ],
)
def test_a_link_is_where_it_was_said_to_be(keys: str, expected: dict[str, object]) -> None:
    body = netdev(f"[[networks]]\n{keys}")
    assert expected.items() <= body.items()


@pytest.mark.parametrize(
    ("version", "keys", "expected"),
    [("10.0", "", {"reconnect-ms": 1000}), ("11.1", "server = true", {}), ("7.2", "", {})],
)
def test_a_link_waits_for_its_server_where_qemu_can(version: str, keys: str, expected: dict[str, int]) -> None:
    body = netdev(f"[[networks]]\ntype = 'stream'\naddress = './x'\n{keys}", qemu=factory.QEMUS[version])
    assert {key: value for key, value in body.items() if key.startswith("reconnect")} == expected


def test_a_link_that_is_tried_once_says_so() -> None:
    link = "[[networks]]\ntype = 'stream'\naddress = './x'\n"
    told = "networks[0]: QEMU 7.2.22 connects to /specs/x once: start the machine at the other end first"
    assert told in factory.plan(link).warnings
    assert told not in factory.plan(link + "server = true").warnings


def test_only_a_server_listens() -> None:
    link = "[[networks]]\ntype = 'stream'\naddress = '127.0.0.1:5000'\n"
    assert factory.plan(link).ports == ()
    assert factory.plan(link + "server = true").ports == (Port("127.0.0.1", 5000, "networks[0].address"),)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        (f"type = 'stream'\naddress = '{LONG}'", "networks[0].address"),
        (f"type = 'dgram'\nlocal = './a'\nremote = '{LONG}'", "networks[0].remote"),
    ],
)
def test_a_path_that_qemu_could_not_bind_is_refused(keys: str, key: str) -> None:
    (problem,) = factory.rejected(f"[[networks]]\n{keys}")
    assert problem.startswith(f"{key}: has 201 bytes and a Unix socket's path at most 107")


def test_a_card_without_a_cable_is_plugged_into_nothing() -> None:
    made = factory.plan("[[networks]]\ntype = 'none'")
    assert factory.options(made, "netdev") == []
    assert "netdev" not in factory.device(made, "net0")


def test_a_microvm_has_virtio_cards() -> None:
    made = factory.plan("machine = 'microvm'\n[[networks]]\ntype = 'tap'\nqueues = 2")
    card = factory.device(made, "net0")
    assert (card["driver"], card["bus"], card["mq"]) == ("virtio-net-device", "virtio-mmio-bus.0", True)
    assert "vectors" not in card
