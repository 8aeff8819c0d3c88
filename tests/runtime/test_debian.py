"""The Debian guest is what it is said to be: a whole system in good order, whoever built it and however it boots."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kvmctl import Roots, Vm, launch
from kvmctl.guest.renew import install
from kvmctl.guest.renewal import SEED_BYTES, Renewal
from kvmctl.guest.turn import Turn
from kvmctl.spec.load import from_mapping

pytestmark = [pytest.mark.debian, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("roots")]

SECURE = Path("/usr/share/OVMF/OVMF_CODE_4M.ms.fd")
DAY = 86400


def overlay(disk: Path, directory: Path, *, size: str = "10G") -> str:
    path = directory / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", path, size], check=True)
    return str(path)


@asynccontextmanager
async def booted(disk: str, **tables: Any) -> AsyncIterator[Vm]:
    spec = {"name": "debian", "memory": "1GiB", "cpus": 2, "disks": [{"path": disk}], "networks": [{"type": "user"}]}
    async with launch(from_mapping(spec | tables, source="debian.toml", base=os.getcwd())) as vm:
        await vm.wait_for_agent()
        yield vm


async def said(vm: Vm, script: str) -> str:
    result = await vm.exec(["sh", "-c", script])
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


async def test_it_boots_grows_and_keeps_what_is_its_own(debian_disk: Path, tmp_path: Path, roots: Roots) -> None:
    disk = overlay(debian_disk, tmp_path)
    async with booted(disk) as vm:
        assert await said(vm, "systemctl is-system-running --wait") == "running"
        assert await said(vm, "systemctl --failed --no-legend") == ""
        assert int(await said(vm, "df --output=size -B1M / | tail -1")) > 9500
        first = await said(vm, "cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub")
        assert await said(vm, "cloud-init status") == "status: disabled"
        await vm.press_power_button()
        assert (await vm.wait_for_event("SHUTDOWN")).data["reason"] == "guest-shutdown"
    async with booted(disk) as vm:
        assert await said(vm, "systemctl is-system-running --wait") == "running"
        assert await said(vm, "cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub") == first


async def test_its_network_is_up_by_itself(debian_disk: Path, tmp_path: Path) -> None:
    async with booted(overlay(debian_disk, tmp_path)) as vm:
        await said(vm, "systemctl start systemd-networkd-wait-online.service")
        assert "10.0.2.15/24" in await said(vm, "ip -4 -brief address")
        await said(vm, "timeout 60 sh -c 'until grep -q 10.0.2.3 /etc/resolv.conf; do sleep 0.1; done'")
        assert await said(vm, "modprobe virtiofs && echo there") == "there"
        assert await said(vm, "passwd --status root | cut -d' ' -f2") == "L"


async def test_it_takes_credentials(debian_disk: Path, tmp_path: Path) -> None:
    credentials = {"ssh.authorized_keys.root": "ssh-ed25519 AAAA me", "tmpfiles.extra": "f /etc/hello - - - - world"}
    async with booted(overlay(debian_disk, tmp_path), credentials=credentials) as vm:
        assert await said(vm, "tail /root/.ssh/authorized_keys; echo; cat /etc/hello") == "ssh-ed25519 AAAA me\nworld"


NOEXEC = "for place in /run /dev/shm /tmp /root; do mount -B $place $place; mount -o remount,bind,noexec $place; done"


async def test_perl_or_python_renews_a_guest_that_lets_no_program_be_put_there(
    debian_disk: Path, tmp_path: Path
) -> None:
    async with booted(overlay(debian_disk, tmp_path)) as vm:
        await said(vm, f"systemctl stop systemd-timesyncd; {NOEXEC}")
        for day, interpreter in enumerate(["perl", "python3"], start=20_000):
            given = Renewal(day * DAY * 10**9, os.urandom(SEED_BYTES), f"by-{interpreter}")
            async with Turn(vm.agent()) as turn:
                command = await install(turn, given)
            assert command is not None
            assert command[0] == interpreter
            assert int(await said(vm, "date +%s")) // DAY == day
            assert await said(vm, "hostname") == f"by-{interpreter}"
            await said(vm, f"rm $(command -v {interpreter})")
        async with Turn(vm.agent()) as turn:
            assert await install(turn, given) is None


@pytest.mark.skipif(not SECURE.exists(), reason="ovmf is not installed")
async def test_it_boots_by_uefi_with_secure_boot(debian_disk: Path, tmp_path: Path) -> None:
    firmware = "uefi-secure"
    async with booted(overlay(debian_disk, tmp_path), firmware=firmware) as vm:
        assert "secureboot: Secure boot enabled" in await said(vm, "dmesg | grep -i secureboot")


def test_nothing_in_it_is_this_hosts_or_another_machines(debian_disk: Path, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", debian_disk, raw], check=True)
    assert read(raw, "/etc/machine-id") == ""
    assert read(raw, "/etc/hostname") == "debian\n"
    assert "ssh_host" not in look(raw, "ls -p /etc/ssh")
    assert "File not found" in look(raw, "stat /etc/apt/apt.conf.d/99mmdebstrap")


def look(raw: Path, request: str) -> str:
    """What debugfs says of the root file system in the disk."""
    done = subprocess.run(
        ["debugfs", "-R", request, f"{raw}?offset={18 << 20}"], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr.partition("\n")[2]


def read(raw: Path, path: str) -> str:
    return look(raw, f"cat {path}")
