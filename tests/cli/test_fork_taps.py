"""Forks on one bridge, for real, in a network namespace: each has a card and a tap of its own, and they meet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmctl.plan.mac import derived_mac

from .conftest import ROOT, Kvmctl
from .namespace import SPEC, Net, network_of

pytestmark = pytest.mark.qemu

LINUX = f"""
memory = "256MiB"
[boot]
kernel = "{ROOT}/machines/images/small-linux/vmlinuz"
initrd = "{ROOT}/machines/images/small-linux/initramfs.gz"
cmdline = "console=ttyS0 quiet panic=-1"
"""
NETWORKS = """
[[networks]]
type = "user"
[[networks]]
type = "tap"
bridge = "br0"
queues = 2
"""
ON_PLUG = r"""
mkfifo /run/plugged
cat >/run/on-plug <<'END'
#!/bin/sh
[ "$ACTION $SUBSYSTEM" = 'add net' ] || exit 0
octet=$((0x$(cut -d : -f 6 /sys/class/net/$INTERFACE/address) % 250 + 1))
ip addr add 10.7.7.$octet/24 dev $INTERFACE
ip link set $INTERFACE up
echo $INTERFACE $(cat /sys/class/net/$INTERFACE/address) 10.7.7.$octet >/run/plugged
END
chmod +x /run/on-plug
uevent /run/on-plug </dev/null >/dev/null 2>&1 &
"""
"""A guest that waits for the kernel to tell of a card, sets it up, and says so to who reads /run/plugged."""
BOOTED_AGAIN = """
import asyncio, os, subprocess, kvmctl

async def work():
    async with await kvmctl.load_template("small").fork(name="again") as fork:
        async def look():
            ports = subprocess.run(["ip", "link", "show", "master", "br0"], capture_output=True, check=True).stdout
            assert len(ports.splitlines()) == 2, ports
            print((await fork.qmp("query-rx-filter", {"name": "net0"}))[0]["main-mac"])
        await look()
        await fork.kill()
        await fork.start()
        await look()
        await fork.wait_for_console("^READY")
        print(os.path.getsize(fork.paths.qemu_log), "bytes of QEMU's log")

asyncio.run(work())
"""


@pytest.fixture
def net(kvmctl: Kvmctl) -> Iterator[Net]:
    with network_of(kvmctl) as ours:
        yield ours


@pytest.fixture(scope="session")
def small_linux() -> None:
    built = subprocess.run([sys.executable, ROOT / "scripts/build-guest"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")


def freeze(net: Net, network: str, *, head: str = "") -> str:
    """Make the template `small` of the tiny guest, with the keys in `network`; what was said."""
    spec = net.kvmctl.directory / "wired.toml"
    spec.write_text(head + SPEC + network)
    done = net.kvmctl("template", "create", "small", "--from", str(spec), "--until", "console:^READY")
    assert done.returncode == 0, done.stderr
    return done.stderr


def end(kvmctl: Kvmctl, *names: str) -> None:
    for name in names:
        kvmctl.ok("stop", name, "--force")
        kvmctl.ok("rm", name, "--yes")


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.usefixtures("small_linux")
def test_the_guests_of_two_forks_see_their_cards_come_and_reach_each_other(kvmctl: Kvmctl, net: Net) -> None:
    spec = kvmctl.directory / "small.toml"
    spec.write_text(LINUX + NETWORKS)
    made = net.kvmctl("template", "create", "small", "--from", str(spec), "--run", ON_PLUG)
    assert made.returncode == 0, made.stderr
    assert "networks[1]: 'net1' is plugged into each fork as it starts" in made.stderr
    assert not net.links("master", "br0")  # the template had none

    net.kvmctl.ok("fork", "small", "--count", "2")
    assert len(net.links("master", "br0")) == 2
    seen = {name: kvmctl.ok("exec", name, "--", "cat", "/run/plugged").split() for name in ("small-1", "small-2")}
    for name, (interface, mac, address) in seen.items():
        (card,) = (item for item in shown(kvmctl, name) if item["id"] == "net1")
        assert (card["type"], card["mac"], interface) == ("tap", mac, "eth1")
        assert address in [item["address"] for item in addresses(kvmctl, name)]
    (one, two) = seen.values()
    assert one[1] != two[1]
    assert " 0% packet loss" in kvmctl.ok("exec", "small-1", "--", "ping", "-c", "1", "-W", "30", two[2])
    end(kvmctl, "small-1", "small-2")
    assert set(net.links()) == {"lo", "br0"}


@pytest.mark.linux
@pytest.mark.slow
@pytest.mark.usefixtures("small_linux")
def test_a_template_without_any_network_is_waited_for_by_its_agent(kvmctl: Kvmctl, net: Net) -> None:
    spec = kvmctl.directory / "small.toml"
    spec.write_text(LINUX + '[[networks]]\ntype = "tap"\nbridge = "br0"\n[guest]\n')  # for which keys are made
    made = net.kvmctl("template", "create", "small", "--from", str(spec), "--until", "exec:true")
    assert made.returncode == 0, made.stderr


def shown(kvmctl: Kvmctl, name: str) -> list[dict[str, str]]:
    """The cards that ``kvmctl show`` tells of."""
    networks: list[dict[str, str]] = json.loads(kvmctl.ok("show", name, "--json"))["plan"]["networks"]
    return networks


def addresses(kvmctl: Kvmctl, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(kvmctl.ok("ip", name, "--json"))["addresses"]
    return found


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_every_fork_has_a_card_and_a_tap_that_go_with_it(kvmctl: Kvmctl, net: Net, machine: str) -> None:
    assert "networks[0]: 'net0' is plugged" in freeze(net, 'bridge = "br0"', head=f'machine = "{machine}"\n')
    names = net.kvmctl.ok("fork", "small", "--count", "3").split()
    macs = set()
    for name in names:
        (card,) = shown(kvmctl, name)
        asked = json.loads(kvmctl.ok("qmp", name, "query-rx-filter", '{"name": "net0"}'))
        assert asked[0]["main-mac"] == card["mac"]
        macs.add(card["mac"])
        log = (Path(kvmctl.directory) / "runtime" / name / "qemu.log").read_text()
        assert log == ""  # no word of a network without a card, or a card without a network
    assert len(macs) == 3
    for left in (2, 1, 0):
        end(kvmctl, names[left])
        assert len(net.links("master", "br0")) == left
    net.kvmctl.ok("fork", "small")
    assert shown(kvmctl, "small-1")[0]["mac"] in macs  # the same name, the same address
    end(kvmctl, "small-1")


def test_a_fork_that_boots_again_has_its_card_from_the_start_on_a_tap_of_its_own(kvmctl: Kvmctl, net: Net) -> None:
    freeze(net, 'bridge = "br0"')
    said = net.python(BOOTED_AGAIN).splitlines()
    assert said == [derived_mac("again", 0)] * 2 + ["0 bytes of QEMU's log"]
    assert set(net.links()) == {"lo", "br0"}


def test_a_tap_on_no_bridge_has_as_many_queues_as_asked_for(kvmctl: Kvmctl, net: Net) -> None:
    freeze(net, "queues = 2")
    net.kvmctl.ok("fork", "small", "--count", "2")
    taps = [link["linkinfo"] for name, link in net.links().items() if name not in {"lo", "br0"}]
    for tap in taps:
        assert isinstance(tap, dict)
        assert tap["info_data"]["numqueues"] + tap["info_data"]["numdisabled"] == 2
    assert len(taps) == 2
    end(kvmctl, "small-1", "small-2")


def test_where_the_bridge_has_gone_no_fork_starts_and_the_key_is_told(kvmctl: Kvmctl, net: Net) -> None:
    freeze(net, 'bridge = "br0"')
    net.ip("link", "delete", "br0")
    for count in ("1", "3"):
        done = net.kvmctl("fork", "small", "--count", count)
        assert done.returncode == 8
        assert "networks[0].bridge: there is no bridge 'br0'" in done.stderr
        assert "ip link add br0 type bridge" in done.stderr
        assert nothing_is_left(kvmctl, net, {"lo"})
    net.add_bridge()
    net.kvmctl.ok("fork", "small")
    end(kvmctl, "small-1")


def test_a_card_that_qemu_refuses_is_told_by_its_key_and_in_qemus_words(kvmctl: Kvmctl, net: Net) -> None:
    head = """extra_args = ["-device", '{"driver": "virtio-rng-pci", "bus": "net0-port", "addr": "0x0"}']\n"""
    freeze(net, 'bridge = "br0"', head=head)
    done = net.kvmctl("fork", "small", "--count", "2")
    assert done.returncode == 9
    assert "networks[0]: QEMU can't plug 'net0' into 'small-" in done.stderr
    assert "PCI: slot 0 function 0" in done.stderr
    assert nothing_is_left(kvmctl, net, {"lo", "br0"})


def nothing_is_left(kvmctl: Kvmctl, net: Net, links: set[str]) -> bool:
    """Whether there is no machine, no tap, and no fork that holds the template."""
    (template,) = json.loads(kvmctl.ok("template", "list", "--json"))["templates"]
    return not template["in_use"] and not kvmctl.ok("list", "--all", "--quiet") and set(net.links()) == links


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ('device = "tap0"', "networks[0].device: an interface of the host is one machine's"),
        ('mac = "52:54:00:00:00:07"', "networks[0].mac: all forks would have the same address"),
    ],
)
def test_what_would_be_one_machines_makes_no_template(kvmctl: Kvmctl, net: Net, network: str, said: str) -> None:
    spec = kvmctl.directory / "wired.toml"
    spec.write_text(SPEC + network)
    done = net.kvmctl("template", "create", "small", "--from", str(spec))
    assert done.returncode == 3
    assert said in done.stderr
    assert json.loads(kvmctl.ok("template", "list", "--json"))["templates"] == []
    assert set(net.links()) == {"lo", "br0"}
