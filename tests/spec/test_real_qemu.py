"""Plans handed to the real QEMU: it takes them without a complaint and makes what was asked for.

Every key of a spec is offered to it by tests/conformance; here is what only a running machine shows.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import factory
import pytest
from qemu_process import Qemu, running

from kvmctl.compile import compile_plan
from kvmctl.host.identity import find_qemu
from kvmctl.host.qemu import qemu_facts
from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths, builtin_guest
from kvmctl.runtime import steps
from kvmctl.runtime.made import Made
from kvmctl.spec.load import parse

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="this host has no qemu-system-x86_64"),
]

TINY = """
memory = "16MiB"
firmware = "qboot.rom"
[boot]
kernel = "builtin:tiny"
cmdline = "hello, world"
[agent]
transport = "serial"
"""


@pytest.fixture(scope="session")
def facts() -> QemuFacts:
    return qemu_facts(find_qemu(env={"PATH": "/usr/local/bin:/usr/bin:/bin"}), cache=None, env={})


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    for name in ("run", "state"):
        (tmp_path / name).mkdir()
    return MachinePaths("web", str(tmp_path / "run"), str(tmp_path / "state"))


def planned(text: str, facts: QemuFacts, paths: MachinePaths) -> Plan:
    """The plan of a spec that lies beside the run directory, under TCG."""
    machine = parse("accel = 'tcg'\n" + text, source="web.toml", base=str(Path(paths.run).parent))
    return compile_plan(machine, host=factory.HOST, qemu=facts, paths=paths)


def read_until(stream: socket.socket, pattern: bytes) -> bytes:
    """What the guest says until `pattern` is in it."""
    seen = b""
    stream.settimeout(60)
    while not re.search(pattern, seen):
        data = stream.recv(4096)
        assert data, f"{pattern!r} did not come: {seen!r}"
        seen += data
    return seen


def addresses(qemu: Qemu) -> dict[str, tuple[int, int]]:
    """Bus and slot of every device on the first PCI bus, as QEMU sees them."""
    devices = (device for bus in qemu.command("query-pci") for device in bus["devices"])
    return {device["qdev_id"]: (device["bus"], device["slot"]) for device in devices}


@pytest.mark.parametrize("kind", ["q35", "pc", "microvm"])
@pytest.mark.parametrize("acpi", ["true", "false"])
def test_the_smallest_machine_starts_without_a_complaint(
    kind: str, acpi: str, facts: QemuFacts, paths: MachinePaths
) -> None:
    with running(planned(f"machine = '{kind}'\nacpi = {acpi}\nmemory = '64MiB'", facts, paths)) as qemu:
        assert qemu.command("query-status")["status"] == "prelaunch"
        assert qemu.log.read_text() == ""


@pytest.mark.parametrize("kind", ["q35", "pc", "microvm"])
def test_the_tiny_guest_boots_and_obeys(kind: str, facts: QemuFacts, paths: MachinePaths) -> None:
    text = TINY.replace('firmware = "qboot.rom"', "") if kind == "microvm" else TINY
    with running(planned(f"machine = '{kind}'\n{text}", facts, paths)) as qemu:
        with qemu.connect("console") as console:
            qemu.command("cont")
            assert b"cmdline=hello, world" in read_until(console, rb"READY")
        assert "KVMCTL-TINY" in Path(paths.console_log).read_text()
        with qemu.connect("agent") as agent:
            agent.sendall(b'{"execute":"guest-ping"}\n')
            assert b"return" in read_until(agent, rb"\n")
        qemu.command("system_powerdown")
        assert qemu.wait_event("SHUTDOWN")["data"]["reason"] == "guest-shutdown"


@pytest.mark.parametrize("bus", ["virtio", "scsi", "sata", "ide", "nvme", "usb"])
def test_the_guest_boots_from_a_disk_on_every_bus(bus: str, facts: QemuFacts, paths: MachinePaths) -> None:
    disk = Path(paths.run).parent / "disk, one.qcow2"
    raw = disk.with_suffix(".raw")
    raw.write_bytes((Path(builtin_guest())).read_bytes().ljust(1 << 20, b"\0"))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    kind = "pc" if bus == "ide" else "q35"
    text = f"machine = '{kind}'\nmemory = '16MiB'\n[[disks]]\npath = '{disk.name}'\nbus = '{bus}'"
    with running(planned(text, facts, paths)) as qemu, qemu.connect("console") as console:
        qemu.command("cont")
        assert b"boots=1" in read_until(console, rb"READY")


def test_devices_are_where_the_plan_puts_them(facts: QemuFacts, paths: MachinePaths) -> None:
    raw = Path(paths.run).parent / "a.raw"
    raw.write_bytes(bytes(1 << 20))
    text = "memory = '64MiB'\nvideo = 'std'\n[[networks]]\ntype = 'user'\n[[disks]]\npath = 'a.raw'\n"
    with running(planned(text, facts, paths)) as qemu:
        found = addresses(qemu)
    assert found["net0-port"] == (0, 2)
    assert found["disk0-port"] == (0, 4)
    assert found["video"] == (0, 1)
    assert found["balloon"] == (0, 0x16)
    assert found["spare0"] == (0, 8)


def test_something_can_be_plugged_into_a_spare_port(facts: QemuFacts, paths: MachinePaths) -> None:
    with running(planned("memory = '64MiB'", facts, paths)) as qemu:
        qemu.command("device_add", driver="virtio-rng-pci", rng="rng-source", id="late", bus="spare0", addr="0x0")
        bus = qemu.command("qom-get", path="/machine/peripheral/late", property="parent_bus")
        assert "/spare0/" in bus


def test_every_oem_string_reaches_the_guest(facts: QemuFacts, paths: MachinePaths) -> None:
    text = """
        memory = "16MiB"
        [smbios]
        oem_strings = ["first string", "second, with a comma"]
        [credentials]
        motd = "hello"
        [boot]
        kernel = "builtin:tiny"
        """
    dump = Path(paths.run) / "tables"
    with running(planned(text, facts, paths)) as qemu, qemu.connect("console") as console:
        qemu.command("cont")
        read_until(console, rb"READY")
        qemu.command("pmemsave", val=0, size=16 << 20, filename=str(dump))
    strings = b"first string\0second, with a comma\0io.systemd.credential:motd=hello\0"
    assert strings in dump.read_bytes()


def test_uefi_starts_with_variables_of_its_own(facts: QemuFacts, paths: MachinePaths) -> None:
    if not facts.firmwares:
        pytest.skip("this host has no UEFI firmware (package ovmf)")
    made = planned("memory = '64MiB'\nfirmware = 'uefi'", facts, paths)
    (step,) = factory.steps(made)
    convert = ["qemu-img", "convert", "-f", step.template_format, "-O", "qcow2", step.template, step.path]
    subprocess.run(convert, check=True)
    with running(made) as qemu:
        nodes = {node["node-name"]: node["drv"] for node in qemu.command("query-named-block-nodes")}
        assert (nodes["pflash0"], nodes["pflash1"]) == ("raw", "qcow2")


def test_vnc_asks_for_its_password(facts: QemuFacts, paths: MachinePaths) -> None:
    secret = Path(paths.run).parent / "pass"
    secret.write_text("secret\n")
    plan = planned("memory = '64MiB'\n[vnc]\npassword_file = './pass'", facts, paths)
    steps.carry_out(plan, Made(paths))
    with running(plan) as qemu:
        (server,) = qemu.command("query-vnc-servers")
        assert server["auth"] == "vnc"
        assert Path(paths.vnc).is_socket()
        command_line = Path(f"/proc/{qemu.process.pid}/cmdline").read_bytes()
        assert b"=secret" not in command_line


def test_memory_is_one_object_that_can_be_looked_at(facts: QemuFacts, paths: MachinePaths) -> None:
    text = "memory = { size = '64MiB', max = '128MiB', source = 'memfd', shared = true }"
    with running(planned(text, facts, paths)) as qemu:
        (memory,) = qemu.command("query-memdev")
        assert (memory["id"], memory["size"], memory["share"]) == ("ram", 64 << 20, True)
