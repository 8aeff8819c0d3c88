"""Each fault is felt by the guest: a small Linux is asked what it sees."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import kvmctl
from kvmctl import KvmctlError, NotFound, State, VerdictKind, Vm
from kvmctl.runtime.blockfaults import choose_seat, error_rule

from . import guests
from .conftest import tiny
from .guests import said

pytestmark = pytest.mark.usefixtures("roots")

READ = "dd if=/dev/{} of=/dev/null bs=4k count=1 iflag=direct"
WRITE = "dd if=/dev/zero of=/dev/{} bs=4k count=1 oflag=direct"
CLOCK = "cut -d' ' -f1 /proc/uptime"
MEGABYTES = f"{CLOCK}; dd if=/dev/{{}} of=/dev/null bs=64k count={{}} iflag=direct 2>/dev/null; {CLOCK}"


@pytest.fixture(scope="session")
def files() -> tuple[str, str]:
    """Kernel and initramfs of the small Linux guest."""
    return guests.build()


@asynccontextmanager
async def booted(files: tuple[str, str], **tables: Any) -> AsyncIterator[Vm]:
    """The small Linux guest, once its agent answers."""
    async with kvmctl.launch(guests.linux(files, **tables)) as vm:
        await vm.wait_for_agent()
        yield vm


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_cut_network_takes_the_carrier_away(files: tuple[str, str]) -> None:
    async with booted(files, networks=[{"type": "user"}, {"type": "user"}]) as vm:
        carriers = "for nic in eth0 eth1; do ip link set $nic up; cat /sys/class/net/$nic/carrier; done"
        assert await said(vm, carriers) == "1\n1\n"
        await vm.faults.cut_network("net1")
        assert await said(vm, carriers) == "1\n0\n"
        await vm.faults.cut_network()
        assert await said(vm, carriers) == "0\n0\n"
        await vm.faults.mend_network()
        assert await said(vm, carriers) == "1\n1\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("disk", "device"),
    [
        ({}, "vda"),
        ({"iothread": True, "format": "raw", "path": "disk.raw"}, "vda"),
        ({"bus": "scsi", "werror": "report"}, "sda"),
    ],
)
async def test_a_failing_disk_fails_as_told_and_works_again_when_mended(
    files: tuple[str, str], disk: dict[str, Any], device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with booted(files, disks=[{"size": "8MiB", **disk}]) as vm:
        read, write = READ.format(device), WRITE.format(device)
        await vm.faults.fail_disk(on=["write"])
        assert "error" not in await said(vm, read)
        assert "Input/output error" in await said(vm, write)

        await vm.faults.fail_disk("disk0", on=["read"], offset=4 << 20)
        assert "error" not in await said(vm, f"{write}; {read}")
        assert "Input/output error" in await said(vm, f"{read} skip=1024")

        await vm.faults.fail_disk(once=True)
        # The driver of SCSI disks tries again by itself, and is lucky.
        assert ("Input/output error" in await said(vm, write)) is (device == "vda")
        assert "error" not in await said(vm, write)

        await vm.faults.mend_disk()
        await vm.faults.mend_disk()
        assert "error" not in await said(vm, f"{read}; {write}; {read} skip=1024")
        nodes = [node["node-name"] for node in await vm.qmp("query-named-block-nodes")]
        assert sorted(nodes) == ["disk0", "disk0-file"]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_full_disk_is_told_to_a_guest_that_is_to_be_told(files: tuple[str, str]) -> None:
    async with booted(files, disks=[{"size": "8MiB", "bus": "scsi", "werror": "report"}]) as vm:
        await vm.faults.fail_disk(error="ENOSPC", on=["write"])
        assert "No space left on device" in await said(vm, WRITE.format("sda"))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_full_disk_stops_the_machine_until_there_is_room_again(files: tuple[str, str]) -> None:
    async with booted(files, disks=[{"size": "8MiB"}]) as vm:
        stopped = vm.wait_for_event("STOP")
        await vm.faults.fail_disk(error="ENOSPC", on=["write"])
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(said(vm, WRITE.format("vda")))
            await stopped
            assert (await vm.status()).state is State.IO_ERROR
            await vm.faults.mend_disk()
            await vm.resume()
        assert "error" not in writing.result()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("disk", "device"), [({"iothread": True}, "vda"), ({"bus": "scsi"}, "sda")])
async def test_a_slow_disk_is_slow_by_the_guests_clock(
    files: tuple[str, str], disk: dict[str, Any], device: str
) -> None:
    async with booted(files, disks=[{"size": "16MiB", **disk}]) as vm:

        async def seconds() -> float:
            begin, end = (await said(vm, MEGABYTES.format(device, 64))).split()
            return float(end) - float(begin)

        await vm.faults.slow_disk(bytes_per_second=1 << 20)
        slow = await seconds()
        await vm.faults.mend_disk("disk0")
        fast = await seconds()
        assert slow > 2.5, "4 MiB at 1 MiB/s"
        assert slow > 3 * fast


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_power_cut_leaves_a_journal_to_be_replayed(files: tuple[str, str], tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"")
    os.truncate(disk, 32 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    mount = "mkdir /m; mount -t ext4 -o commit=600 /dev/vda /m"
    async with booted(files, disks=[{"path": str(disk)}]) as vm:
        await said(vm, f"{mount}; echo kept >/m/kept; sync; echo lost >/m/lost")
        assert await said(vm, "cat /m/kept /m/lost; grep -c ' /m ' /proc/mounts") == "kept\nlost\n1\n"
        assert (await vm.kill()).reason is kvmctl.ExitReason.KILLED
    async with booted(files, disks=[{"path": str(disk)}]) as vm:
        assert "recovery complete" in await said(vm, f"{mount}; dmesg | grep EXT4-fs")
        assert await said(vm, "ls /m") == "kept\nlost+found\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_clock_jumps_ahead_and_back(files: tuple[str, str]) -> None:
    async with booted(files) as vm:
        before = int(await said(vm, "date +%s"))
        told = await vm.faults.jump_clock(7 * 86400)
        assert 7 * 86400 <= told - before < 7 * 86400 + 120
        assert 7 * 86400 <= int(await said(vm, "date +%s")) - before < 7 * 86400 + 120
        await vm.faults.jump_clock(-7 * 86400)
        assert 0 <= int(await said(vm, "date +%s")) - before < 120


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_squeeze_takes_the_guests_memory(files: tuple[str, str]) -> None:
    async with booted(files, balloon=True) as vm:
        free = "awk '/MemFree/ {print $2}' /proc/meminfo"
        before = int(await said(vm, free))
        await vm.set_balloon(144 << 20)
        await vm.wait_for_balloon(144 << 20)
        assert before - int(await said(vm, free)) > 64 << 10
        await vm.set_balloon(256 << 20)
        await vm.wait_for_balloon(256 << 20)
        assert before - int(await said(vm, free)) < 32 << 10


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_nmi_is_counted_by_the_first_cpu(files: tuple[str, str]) -> None:
    async with booted(files, cpus=2) as vm:
        assert (await said(vm, "grep NMI: /proc/interrupts")).split()[:3] == ["NMI:", "0", "0"]
        await vm.faults.inject_nmi()
        assert (await said(vm, "grep NMI: /proc/interrupts")).split()[:3] == ["NMI:", "1", "0"]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_crashed_kernel_is_told_as_a_panic(files: tuple[str, str]) -> None:
    async with booted(files, panic=True, on_crash="pause") as vm:
        stopped = vm.wait_for_event("STOP")
        await vm.faults.crash_kernel()
        await stopped
        # What a kernel prints in an NMI it puts off, and here it was stopped before it came to that.
        assert vm.verdict().kind is VerdictKind.KERNEL_PANIC


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_stall_is_a_gap_in_the_guests_time(files: tuple[str, str]) -> None:
    async with booted(files, cpus=2) as vm:
        assert 2.9 <= await guests.worst_gap(vm, vm.faults.stall(3)) < 20


@pytest.mark.qemu
async def test_what_a_machine_does_not_have_can_not_fail() -> None:
    async with kvmctl.launch(tiny(cmdline="quiet", networks=[{"type": "user"}])) as vm:
        with pytest.raises(NotFound, match=r"'web-[0-9a-f]+' has no disk"):
            await vm.faults.fail_disk()
        with pytest.raises(NotFound, match="has no network card 'net7'") as error:
            await vm.faults.cut_network("net7")
        assert error.value.hint == "It has: net0."
        with pytest.raises(KvmctlError, match="'raed' is not a disk's request"):
            await vm.faults.fail_disk(on=["raed"])
        with pytest.raises(KvmctlError, match="needs a limit above 0"):
            await vm.faults.slow_disk()
        with pytest.raises(KvmctlError, match="can't be stalled for 0 s"):
            await vm.faults.stall(0)


@pytest.mark.qemu
async def test_one_of_several_disks_is_named_and_an_empty_drive_has_nothing_to_fail() -> None:
    disks = [{"size": "1MiB"}, {"size": "1MiB"}, {"device": "cdrom"}]
    async with kvmctl.launch(tiny(disks=disks)) as vm:
        with pytest.raises(KvmctlError, match="has several disks") as error:
            await vm.faults.slow_disk(operations_per_second=1)
        assert error.value.hint == "Name one of: disk0, disk1."
        with pytest.raises(KvmctlError, match="the drive 'disk2' is empty"):
            await vm.faults.fail_disk("disk2")
        await vm.faults.fail_disk("disk1")
        await vm.faults.mend_disk()


@pytest.mark.qemu
@pytest.mark.parametrize("bus", ["virtio", "scsi", "sata", "nvme", "usb"])
async def test_disks_of_every_bus_fail_and_are_mended(bus: str) -> None:
    async with kvmctl.launch(tiny(disks=[{"size": "1MiB", "bus": bus}])) as vm:
        for error in ("EIO", "ENOSPC"):
            await vm.faults.fail_disk(error=error)
            await vm.faults.slow_disk(bytes_per_second=1 << 20)
        await vm.faults.mend_disk()
        assert {node["node-name"] for node in await vm.qmp("query-named-block-nodes")} == {"disk0", "disk0-file"}


@pytest.mark.qemu
async def test_a_stall_that_is_cancelled_lets_the_machine_go_on() -> None:
    async with kvmctl.launch(tiny()) as vm:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await vm.faults.stall(60)
        assert (await vm.status()).state is State.RUNNING


def test_the_inner_device_has_the_image() -> None:
    drives = [
        {"qdev": "/machine/peripheral/stick/stick.0/legacy[0]", "inserted": {"node-name": "stick"}},
        {"qdev": "stick", "inserted": {"node-name": "stick"}},
        {"qdev": "stick2", "inserted": {"node-name": "stick2"}},
        {"qdev": "cd"},
    ]
    found = choose_seat(drives, device="stick")
    assert found is not None
    assert found.qom_path == "/machine/peripheral/stick/stick.0/legacy[0]"
    assert choose_seat(drives, device="cd") is None


def test_an_offset_is_a_sector_and_none_is_every_sector() -> None:
    assert error_rule("read", error=5, offset=1025, once=False)["sector"] == 2
    assert "sector" not in error_rule("read", error=28, offset=None, once=False)
