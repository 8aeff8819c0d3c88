"""Taps and bridges for real, in a network namespace of the test's own: made with the machine, gone with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Kvmctl
from .namespace import Net, network_of

pytestmark = [pytest.mark.qemu]


@pytest.fixture
def net(kvmctl: Kvmctl) -> Iterator[Net]:
    with network_of(kvmctl) as ours:
        yield ours


def test_a_tap_is_up_on_its_bridge_and_goes_with_its_machine(kvmctl: Kvmctl, net: Net) -> None:
    done = net.start('bridge = "br0"')
    assert done.returncode == 0, done.stderr
    (tap,) = net.links("master", "br0").values()
    assert "UP" in tap["flags"]
    assert str(tap["address"]).startswith("fe:")  # so that the bridge never takes it for its own
    kvmctl.ok("kill", "wired")
    assert not net.links("master", "br0")
    kvmctl.ok("rm", "--yes", "wired")


def test_a_tap_has_as_many_queues_as_asked_for(kvmctl: Kvmctl, net: Net) -> None:
    done = net.start('bridge = "br0"\ndevice = "wide0"\nqueues = 2')
    assert done.returncode == 0, done.stderr
    tap = net.links()["wide0"]["linkinfo"]
    assert isinstance(tap, dict)
    queues = tap["info_data"]  # QEMU leaves the second one off until the guest wants it
    assert queues["numqueues"] + queues["numdisabled"] == 2
    kvmctl.ok("kill", "wired")
    assert "wide0" not in net.links()
    kvmctl.ok("rm", "--yes", "wired")


def test_a_tap_that_was_there_before_is_still_there_afterwards(kvmctl: Kvmctl, net: Net) -> None:
    net.ip("tuntap", "add", "dev", "kept0", "mode", "tap")
    net.ip("link", "set", "kept0", "master", "br0")
    done = net.start('bridge = "br0"\ndevice = "kept0"')
    assert done.returncode == 0, done.stderr
    kvmctl.ok("kill", "wired")
    assert "kept0" in net.links("master", "br0")
    kvmctl.ok("rm", "--yes", "wired")


def test_a_tap_somebody_has_is_said_to_be_in_use(kvmctl: Kvmctl, net: Net) -> None:
    assert net.start('device = "mine0"').returncode == 0
    done = net.start('device = "mine0"', name="other")
    assert done.returncode == 7
    assert "'mine0' is in use" in done.stderr
    assert kvmctl.ok("list", "--all", "--quiet").split() == ["wired"]
    kvmctl.ok("kill", "wired")
    kvmctl.ok("rm", "--yes", "wired")


def test_a_bridge_that_is_not_there_is_told_with_how_to_make_it(net: Net) -> None:
    done = net.start('bridge = "br7"')
    assert done.returncode == 8
    assert "networks[0].bridge: there is no bridge 'br7'" in done.stderr
    assert "ip link add br7 type bridge" in done.stderr
    assert set(net.links()) == {"lo", "br0"}


def test_what_is_no_bridge_is_said_not_to_be_one(net: Net) -> None:
    done = net.start('bridge = "lo"')
    assert done.returncode == 8
    assert "'lo' is no bridge" in done.stderr
    assert set(net.links()) == {"lo", "br0"}


def test_what_is_no_tap_is_said_not_to_be_one(net: Net) -> None:
    done = net.start('device = "br0"')
    assert done.returncode == 8
    assert "networks[0].device: 'br0' is there and is no tap with 1 queue" in done.stderr
    assert set(net.links()) == {"lo", "br0"}


def test_without_the_privilege_it_is_said_what_it_takes(net: Net) -> None:
    done = net.start('bridge = "br0"', wrap=("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"))
    assert done.returncode == 8
    assert "making a tap takes root, or CAP_NET_ADMIN" in done.stderr
    assert 'type "user"' in done.stderr
    assert set(net.links()) == {"lo", "br0"}
