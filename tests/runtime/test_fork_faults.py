"""Each fault is felt by the guest of a fork as by any other: one template, and a fork for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

import kvmctl
from kvmctl import Fork, Roots, State, Template

from . import guests
from .conftest import end_all
from .guests import said

pytestmark = [pytest.mark.linux, pytest.mark.slow]

READ = "dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct"
WRITE = "dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct"
CLOCK = "cut -d' ' -f1 /proc/uptime"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Template]:
    """The small Linux guest, frozen once, in directories of its own; a fork that is left running is an error."""
    directory = tmp_path_factory.mktemp("faults")
    config, state, runtime = (str(directory / part) for part in ("config", "state", "runtime"))
    assert pytestconfig.cache is not None
    roots = Roots(config, state, runtime, str(pytestconfig.cache.mkdir("kvmctl")))
    networks = [{"type": "user"}, {"type": "user"}]
    machine = guests.linux(guests.build(), networks=networks, disks=[{"size": "8MiB"}], cpus=2)
    yield asyncio.run(kvmctl.create_template("faults", machine, roots=roots))
    leaked = end_all(str(directory))
    assert not leaked, f"left running: {leaked}"


async def a_cut_network_takes_the_carrier_away(vm: Fork) -> None:
    carriers = "for nic in eth0 eth1; do ip link set $nic up; cat /sys/class/net/$nic/carrier; done"
    await vm.faults.cut_network("net1")
    assert await said(vm, carriers) == "1\n0\n"
    await vm.faults.cut_network()
    assert await said(vm, carriers) == "0\n0\n"
    await vm.faults.mend_network()
    assert await said(vm, carriers) == "1\n1\n"


async def a_failing_disk_fails_and_works_again_when_mended(vm: Fork) -> None:
    await vm.faults.fail_disk(on=["write"])
    assert "error" not in await said(vm, READ)
    assert "Input/output error" in await said(vm, WRITE)
    await vm.faults.fail_disk(on=["read"], offset=4 << 20)
    assert "error" not in await said(vm, f"{WRITE}; {READ}")
    assert "Input/output error" in await said(vm, f"{READ} skip=1024")
    await vm.faults.mend_disk()
    assert "error" not in await said(vm, f"{READ}; {WRITE}; {READ} skip=1024")


async def a_full_disk_stops_it_until_there_is_room_again(vm: Fork) -> None:
    stopped = vm.wait_for_event("STOP")
    await vm.faults.fail_disk(error="ENOSPC", on=["write"])
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(said(vm, WRITE))
        await stopped
        assert (await vm.status()).state is State.IO_ERROR
        await vm.faults.mend_disk()
        await vm.resume()
    assert "error" not in writing.result()


async def a_slow_disk_is_slow_by_the_guests_clock(vm: Fork) -> None:
    async def seconds() -> float:
        begin, end = (await said(vm, f"{CLOCK}; {READ} bs=64k count=64 2>/dev/null; {CLOCK}")).split()
        return float(end) - float(begin)

    await vm.faults.slow_disk(bytes_per_second=1 << 20)
    slow = await seconds()
    await vm.faults.mend_disk()
    assert slow > 2.5, "4 MiB at 1 MiB/s"
    assert slow > 3 * await seconds()


async def a_stall_is_a_gap_in_its_time(vm: Fork) -> None:
    assert 2.9 <= await guests.worst_gap(vm, vm.faults.stall(3)) < 20


async def the_clock_jumps_ahead_and_back(vm: Fork) -> None:
    before = int(await said(vm, "date +%s"))
    for seconds, expected in ((7 * 86400, 7 * 86400), (-7 * 86400, 0)):
        await vm.faults.jump_clock(seconds)
        assert expected <= int(await said(vm, "date +%s")) - before < expected + 120


async def an_nmi_is_counted_by_the_first_cpu(vm: Fork) -> None:
    async def counts() -> list[int]:
        return [int(word) for word in (await said(vm, "grep NMI: /proc/interrupts")).split()[1:3]]

    first, second = await counts()
    await vm.faults.inject_nmi()
    assert await counts() == [first + 1, second]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "feels",
    [
        a_cut_network_takes_the_carrier_away,
        a_failing_disk_fails_and_works_again_when_mended,
        a_full_disk_stops_it_until_there_is_room_again,
        a_slow_disk_is_slow_by_the_guests_clock,
        a_stall_is_a_gap_in_its_time,
        the_clock_jumps_ahead_and_back,
        an_nmi_is_counted_by_the_first_cpu,
    ],
    ids=lambda function: function.__name__,
)
async def test_a_fork_feels_it(template: Template, feels: Callable[[Fork], Awaitable[None]]) -> None:
    async with await template.fork() as fork:
        await feels(fork)
    template.check()  # nothing of it was done to the template
