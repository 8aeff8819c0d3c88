"""Consoles, channels, and the small devices."""

from __future__ import annotations

import factory
import pytest

from kvmctl.plan.model import Console, Listen, MakeFifos, QmpStep
from kvmctl.plan.option import Fd

QUIET = "balloon = false\nrng = false\npanic = false\nagent = false\nserials = []\n"


def drivers(text: str) -> set[str]:
    """The device types of a spec, root ports left out."""
    made = factory.plan(text)
    return {str(option.body["driver"]) for option in factory.options(made, "device")} - {"pcie-root-port"}


def test_what_is_there_by_default_can_be_left_out() -> None:
    assert drivers(QUIET) == set()
    assert drivers("") == {
        "isa-serial",
        "virtio-serial-pci",
        "virtserialport",
        "virtio-balloon-pci",
        "virtio-rng-pci",
        "pvpanic",
    }


@pytest.mark.parametrize("word", ["true", "{}"])
def test_a_default_device_can_be_asked_for(word: str) -> None:
    made = factory.plan(f"{QUIET.replace('rng = false', f'rng = {word}')}")
    (rng,) = [option for option in made.options if option.body.get("id") == "rng"]
    assert rng.why == "rng"


# --- consoles


def test_the_first_serial_port_is_the_console() -> None:
    made = factory.plan()
    assert factory.body(made, "chardev", "serial0") == {
        "id": "serial0",
        "fd": Fd("console"),
        "server": True,
        "wait": False,
        "logfile": "/run/kvmctl/web/console.log",
        "logappend": False,
    }
    assert made.consoles == (Console("serial0", "/run/kvmctl/web/console.sock", "/run/kvmctl/web/console.log"),)
    assert Listen("console", "/run/kvmctl/web/console.sock") in made.fds


def test_further_consoles_have_sockets_and_logs_of_their_own() -> None:
    made = factory.plan("[[serials]]\n[[serials]]\nid = 'debug'\n[[consoles]]\nlog = false\n")
    assert [(item.id, item.socket, item.log) for item in made.consoles] == [
        ("serial0", "/run/kvmctl/web/console.sock", "/run/kvmctl/web/console.log"),
        ("debug", "/run/kvmctl/web/debug.sock", "/run/kvmctl/web/debug.log"),
        ("console0", "/run/kvmctl/web/console0.sock", ""),
    ]
    assert "logfile" not in factory.body(made, "chardev", "console0")


def test_without_serial_ports_a_virtio_console_is_the_console() -> None:
    made = factory.plan("serials = []\n[[consoles]]\n[[consoles]]")
    assert [item.socket for item in made.consoles] == ["/run/kvmctl/web/console.sock", "/run/kvmctl/web/console1.sock"]


def test_ports_share_one_controller_and_have_their_numbers() -> None:
    made = factory.plan("[[consoles]]\n[[channels]]\nname = 'org.example.stats.0'")
    assert [option.body["id"] for option in made.options if option.body.get("driver") == "virtio-serial-pci"] == [
        "channels"
    ]
    ports = [factory.device(made, name) for name in ("console0", "agent", "transfer", "channel0")]
    assert [(port["bus"], port["nr"]) for port in ports] == [("channels.0", nr) for nr in (1, 2, 3, 4)]
    assert [port["name"] for port in ports[2:]] == ["org.kvmctl.transfer.0", "org.example.stats.0"]
    assert Listen("channel0", "/run/kvmctl/web/channel0.sock") in made.fds


# --- the agent


def test_the_agent_s_port_announces_that_it_is_opened() -> None:
    made = factory.plan()
    port = factory.device(made, "agent")
    assert (port["driver"], port["name"]) == ("virtserialport", "org.qemu.guest_agent.0")
    assert made.guest.agent == "virtio"


def test_the_agent_s_port_always_has_somebody_connected() -> None:
    made = factory.plan()
    stream = next(option for option in made.options if option.flag == "chardev" and option.body["id"] == "agent")
    assert (stream.lead, stream.body["path"]) == ("pipe", factory.PATHS.agent_fifos)
    assert MakeFifos(factory.PATHS.agent_fifos) in made.steps
    on_serial = factory.plan("[agent]\ntransport = 'serial'")
    assert Listen("agent", factory.PATHS.agent) in on_serial.fds
    assert not on_serial.steps


@pytest.mark.parametrize(
    ("table", "has_port"),
    [
        ("", True),
        ("agent = false", False),
        ("[agent]\ntransfer = false", False),
        ("[agent]\ntransport = 'serial'", False),
    ],
)
def test_files_have_a_port_of_their_own_beside_a_virtio_agent(table: str, has_port: bool) -> None:
    made = factory.plan(table)
    assert made.guest.transfer is has_port
    assert (Listen("transfer", factory.PATHS.transfer) in made.fds) is has_port
    assert any(option.body.get("id") == "transfer" for option in made.options) is has_port


def test_the_agent_can_be_on_the_second_serial_port() -> None:
    made = factory.plan("[agent]\ntransport = 'serial'\n[[serials]]\n[[serials]]")
    indexes = {name: factory.device(made, name)["index"] for name in ("serial0", "agent", "serial1")}
    assert indexes == {"serial0": 0, "agent": 1, "serial1": 2}
    assert made.guest.agent == "serial"
    assert factory.plan("agent = false").guest.agent is None


# --- the rest


def test_the_balloon_gives_memory_back() -> None:
    made = factory.plan()
    assert {"free-page-reporting": True, "deflate-on-oom": True}.items() <= factory.device(made, "balloon").items()
    assert made.guest.balloon
    assert made.before_run == ()
    assert not factory.plan("balloon = false").guest.balloon


def test_memory_statistics_are_asked_for_over_the_monitor() -> None:
    made = factory.plan("[balloon]\nstats_interval = 5")
    arguments = {"path": "/machine/peripheral/balloon", "property": "guest-stats-polling-interval", "value": 5}
    assert made.before_run == (QmpStep("qom-set", arguments, why="balloon.stats_interval"),)


def test_randomness_is_qemu_s_own_or_a_device_s() -> None:
    assert factory.body(factory.plan(), "object", "rng-source") == {"qom-type": "rng-builtin", "id": "rng-source"}
    made = factory.plan("[rng]\nsource = '/dev/hwrng'")
    assert factory.body(made, "object", "rng-source")["filename"] == "/dev/hwrng"
    assert made.inputs[0].key == "rng.source"


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("panic = { model = 'pci' }", "pvpanic-pci"),
        ("watchdog = true", "i6300esb"),
        ("watchdog = { model = 'ib700' }", "ib700"),
        ("vsock = { cid = 7 }", "vhost-vsock-pci"),
        ("machine = 'microvm'\nvsock = { cid = 7 }", "vhost-vsock-device"),
        ("machine = 'microvm'\nwatchdog = { model = 'ib700' }", "ib700"),
    ],
)
def test_small_devices_are_one_device(text: str, driver: str) -> None:
    assert drivers(QUIET.replace("panic = false\n", "") + text if "panic" in text else QUIET + text) == {driver}


def test_the_chipset_s_watchdog_is_allowed_to_act() -> None:
    made = factory.plan("watchdog = { model = 'itco' }")
    assert factory.only(made, "global").body == {"driver": "ICH9-LPC", "property": "noreboot", "value": False}


def test_a_vsock_needs_the_host_s_help() -> None:
    (problem,) = factory.rejected("vsock = { cid = 7 }", host=factory.host(vhost_vsock=False))
    assert problem.startswith("vsock: this host has no usable /dev/vhost-vsock")


def test_a_device_that_this_qemu_lacks_is_told_by_its_key() -> None:
    lean = factory.qemu(devices=factory.QEMU.devices - {"qxl-vga", "nvme", "virtio-serial-pci"})
    text = "video = 'qxl'\n[[disks]]\npath = 'a.raw'\nbus = 'nvme'"
    lacks = f"QEMU 7.2.22 ({lean.path}) has no device"
    built = "built without it, or a module is missing"
    assert factory.rejected(text, qemu=lean) == [
        f"agent: {lacks} 'virtio-serial-pci': {built}",
        f"disks[0]: {lacks} 'nvme': {built}",
        f"video: {lacks} 'qxl-vga': {built}",
    ]


# --- places


def test_spare_ports_wait_for_what_is_plugged_in() -> None:
    def spares(text: str) -> list[str]:
        made = factory.plan(text)
        return [str(option.body["id"]) for option in made.options if str(option.body.get("id", "")).startswith("spare")]

    assert spares("") == ["spare0", "spare1", "spare2", "spare3"]
    assert len(spares("[pci]\nspare_root_ports = 32")) == 32
    assert spares("[pci]\nspare_root_ports = 0") == []
    assert spares("machine = 'pc'") == []


def test_a_machine_that_is_full_says_so() -> None:
    nets = "[[networks]]\ntype = 'none'\n"
    assert factory.rejected(nets * 17) == [
        "networks[16]: q35 has 16 slots for networks, and all are taken; fewer of them"
    ]
    assert factory.rejected("machine = 'pc'\n" + nets * 9) == [
        "networks[8]: pc has 8 slots for networks, and all are taken; fewer of them"
    ]
    assert factory.rejected("machine = 'microvm'\n" + nets * 22) == [
        "rng: this microvm has 24 virtio buses, and all are taken; machine = 'q35'"
    ]


def test_the_first_network_of_a_microvm_is_on_the_first_bus() -> None:
    made = factory.plan("machine = 'microvm'\n[[networks]]\ntype = 'none'\n[[disks]]\npath = 'a.raw'")
    buses = {name: factory.device(made, name)["bus"] for name in ("net0", "disk0", "channels", "balloon", "rng")}
    assert list(buses.values()) == [f"virtio-mmio-bus.{number}" for number in range(5)]


def test_a_microvm_without_acpi_has_eight_buses() -> None:
    text = "machine = 'microvm'\nacpi = false\n" + "[[networks]]\ntype = 'none'\n" * 6
    assert factory.rejected(text) == ["rng: this microvm has 8 virtio buses, and all are taken; acpi = true"]
