"""The small Linux guest does what a machine's guest should: says when it is ready, obeys, answers, lets itself be
run things in. It is built first where it was not; that takes apt, and the network the first time."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmctl.guest.agent import Agent
from kvmctl.guest.run import run

from .raw_qemu import QEMU, RawQemu, raw_qemu

SCRIPT = Path(__file__).parents[2] / "scripts" / "build-guest"
READY = rb"(?s)on kernel (\S+)\r\n.*GUEST-READY\r\n"

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed"),
]


@dataclass
class Linux:
    """A booted guest."""

    qemu: RawQemu
    agent: Agent
    kernel: str


@pytest.fixture(scope="module")
def kernel_options() -> list[str]:
    built = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    kernel, initramfs, *_ = built.stdout.split()
    return ["-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1"]


@pytest.fixture(scope="module")
def boot(kernel_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Iterator[Linux]]:
    def booted(*options: str) -> Iterator[Linux]:
        directory = tmp_path_factory.mktemp("linux")
        path = str(directory / "agent.sock")
        machine = ["-M", "q35", "-accel", "tcg", "-cpu", "max", *kernel_options, "-device", "virtio-serial-pci"]
        machine += ["-chardev", f"socket,id=channel,path={path},server=on,wait=off"]
        machine += ["-device", "virtserialport,chardev=channel,id=agent,name=org.qemu.guest_agent.0"]
        with raw_qemu(directory / "qemu.log", *machine, *options, memory="256") as qemu:
            kernel = qemu.console.expect(READY)[1].decode()
            yield Linux(qemu, Agent(lambda: connect(path)), kernel)

    return booted


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client


@pytest.fixture(scope="module")
def linux(boot: Callable[..., Iterator[Linux]]) -> Iterator[Linux]:
    """One guest for the tests that leave it as it was."""
    devices = ["virtio-balloon-pci", "virtio-rng-pci", "virtio-net-pci,netdev=net", "pvpanic"]
    yield from boot("-netdev", "user,id=net", *(word for name in devices for word in ("-device", name)))


async def said(linux: Linux, *command: str) -> str:
    result = await run(linux.agent, command)
    assert result.exit_code == 0, result
    return result.stdout.decode()


async def test_agent_is_qemus_own_and_runs_commands(linux: Linux) -> None:
    info = await linux.agent.info()
    assert info.version[0].isdigit()
    assert {"guest-exec", "guest-file-read", "guest-shutdown"} <= info.commands
    assert await said(linux, "uname", "-r") == f"{linux.kernel}\n"
    assert (await run(linux.agent, ["sh", "-c", "exit 42"])).exit_code == 42


async def test_output_is_streamed_from_a_real_guest(linux: Linux) -> None:
    came: list[bytes] = []
    go = ["sh", "-c", "mkfifo /tmp/gate; echo first; cat /tmp/gate; rm /tmp/gate"]
    seen = asyncio.Event()

    def on_stdout(data: bytes) -> None:
        came.append(data)
        seen.set()

    task = asyncio.ensure_future(run(linux.agent, go, on_stdout=on_stdout))
    await seen.wait()
    assert not task.done()
    await said(linux, "sh", "-c", "echo second >/tmp/gate")
    assert (await task).exit_code == 0
    assert b"".join(came) == b"first\nsecond\n"


async def test_large_output_is_whole(linux: Linux) -> None:
    result = await run(linux.agent, ["seq", "1", "200000"])
    assert result.stdout == b"".join(b"%d\n" % number for number in range(1, 200001))


async def test_command_that_nobody_waits_for_is_ended(linux: Linux) -> None:
    started = asyncio.Event()
    command = ["sh", "-c", "echo; exec sleep 4321"]
    task = asyncio.ensure_future(run(linux.agent, command, on_stdout=lambda _: started.set()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await run(linux.agent, ["pgrep", "-f", "sleep 4321"])).stdout == b""


async def test_nothing_of_a_command_stays_in_the_guest(linux: Linux) -> None:
    await said(linux, "true")
    assert await said(linux, "sh", "-c", "ls -A /tmp /var/tmp | grep -c kvmctl || true") == "0\n"


async def test_network_is_up(linux: Linux) -> None:
    assert "inet 10.0.2.15/24" in await said(linux, "ip", "-4", "address", "show", "dev", "eth0")
    assert "default via 10.0.2.2" in await said(linux, "ip", "route")
    assert "nameserver 10.0.2.3" in await said(linux, "cat", "/etc/resolv.conf")


async def test_drivers_of_what_is_there_are_loaded_and_others_can_be(linux: Linux) -> None:
    loaded = {line.split()[0] for line in (await said(linux, "lsmod")).splitlines()[1:]}
    assert {"virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_balloon", "button"} <= loaded
    await said(linux, "modprobe", "isofs")


async def test_balloon_takes_and_gives_back(linux: Linux) -> None:
    linux.qemu.qmp.execute("balloon", value=128 << 20)
    while linux.qemu.qmp.wait_event("BALLOON_CHANGE")["data"]["actual"] > 128 << 20:
        pass
    available = int(re.search(r"MemAvailable:\s+(\d+)", await said(linux, "cat", "/proc/meminfo"))[1])  # type: ignore[index]
    assert available < 128 << 10
    linux.qemu.qmp.execute("balloon", value=256 << 20)
    while linux.qemu.qmp.wait_event("BALLOON_CHANGE")["data"]["actual"] < 256 << 20:
        pass


def test_console_has_a_shell(linux: Linux) -> None:
    linux.qemu.console.expect(rb"/ # ")
    linux.qemu.console.send(b"echo $((6 * 7))\n")
    linux.qemu.console.expect(rb"\n42\r\n")


def test_power_button_is_obeyed(boot: Callable[..., Iterator[Linux]]) -> None:
    for linux in boot():
        linux.qemu.qmp.execute("system_powerdown")
        linux.qemu.console.expect(b"POWER-BUTTON")
        assert linux.qemu.qmp.wait_event("SHUTDOWN")["data"]["reason"] == "guest-shutdown"
        assert linux.qemu.wait() == 0


@pytest.mark.parametrize(("mode", "reason"), [("powerdown", "guest-shutdown"), ("reboot", "guest-reset")])
async def test_agent_shuts_it_down(boot: Callable[..., Iterator[Linux]], mode: str, reason: str) -> None:
    for linux in boot("-action", "reboot=shutdown"):
        await linux.agent.shut_down(mode)  # type: ignore[arg-type]
        assert linux.qemu.qmp.wait_event("SHUTDOWN")["data"]["reason"] == reason
        assert linux.qemu.wait() == 0


def test_disks_and_controllers_are_found(boot: Callable[..., Iterator[Linux]], tmp_path: Path) -> None:
    options: list[str] = []
    for device in ("virtio-blk-pci", "scsi-hd", "nvme,serial=1"):
        name = device.split(",")[0]
        (tmp_path / name).write_bytes(bytes(1 << 20))
        options += ["-blockdev", f"driver=file,node-name={name},filename={tmp_path / name}"]
        options += ["-device", "virtio-scsi-pci"] * (name == "scsi-hd") + ["-device", f"{device},drive={name}"]
    for linux in boot(*options):
        linux.qemu.console.expect(rb"# ")
        linux.qemu.console.send(b"ls /sys/block\n")
        disks = linux.qemu.console.expect(rb"(?s)/sys/block\r\n(.*?)/ # ")[1].decode()
        assert {"vda", "sda", "nvme0n1"} <= set(re.sub(r"\x1b\[[\d;]*[mn]", "", disks).split())
