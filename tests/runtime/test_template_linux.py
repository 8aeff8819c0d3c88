"""Forks of a Linux guest: what is in them, and that each is renewed before anybody gets to see it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.guest import renewal
from kvmctl.guest.resident import Resident
from kvmctl.runtime import conditions, forking, handshake, server
from kvmctl.runtime.waiting import meet, parse_guest_condition
from kvmctl.spec.load import from_mapping, read_mapping

from .conftest import give_card

pytestmark = [pytest.mark.linux, pytest.mark.slow, pytest.mark.usefixtures("roots")]

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "machines/small-linux.toml"
MEMORY_MAX = 40 << 20
"""Bytes that a fork has for itself, at most."""


@pytest.fixture(scope="session", autouse=True)
def guest() -> None:
    built = subprocess.run([sys.executable, ROOT / "scripts/build-guest"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")


async def shell(vm: kvmctl.Vm, command: str) -> str:
    """What a command in the guest prints."""
    result = await vm.exec(["sh", "-c", command])
    assert result.exit_code == 0, result.stderr
    return result.stdout.decode().strip()


async def test_forks_have_what_was_done_and_random_numbers_a_clock_and_names_of_their_own() -> None:
    template = await kvmctl.create_template("small", SPEC, run=["echo done >/tmp/it", "sync"])
    assert template.warnings == ()
    seen = []
    for number in range(2):
        async with await template.fork(hostname=f"fork-{number}") as fork:
            assert await shell(fork, "cat /tmp/it") == "done"
            assert await shell(fork, "hostname") == f"fork-{number}"
            assert abs(int(await shell(fork, "date +%s")) - time.time()) < 5
            seen.append(await shell(fork, "head -c 32 /dev/urandom | od -An -tx1"))
            assert await shell(fork, "ip route | grep default")
    assert seen[0] != seen[1]
    template.check()  # nothing of it was written


async def test_no_fork_is_handed_out_before_its_guest_has_fresh_random_numbers(
    roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = await kvmctl.create_template("small", SPEC)
    order: list[str] = []
    seeds: list[bytes] = []
    send, wait = Resident.send_renewal, Resident.wait_renewed

    async def watched_send(self: Resident, given: renewal.Renewal) -> None:
        order.append("asked")
        seeds.append(given.seed)
        await send(self, given)

    async def watched_wait(self: Resident) -> None:
        await wait(self)  # raises unless the guest's kernel took the seed
        order.append("renewed")

    monkeypatch.setattr(Resident, "send_renewal", watched_send)
    monkeypatch.setattr(Resident, "wait_renewed", watched_wait)
    for _ in range(2):
        async with await template.fork() as fork:
            order.append("handed out")
            (noted,) = [event for _, event in kvmctl.read_events(fork.name) if event.name == forking.FORKED]
            assert noted.data == {"template": "small", "renewed": ["random", "clock"]}
    assert order == ["asked", "renewed", "handed out"] * 2
    assert len(set(seeds)) == 2
    assert {len(seed) for seed in seeds} == {renewal.SEED_BYTES}


async def test_what_a_guest_does_about_its_card_it_does_with_random_numbers_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    template = await kvmctl.create_template("small", SPEC)
    give_card(template, driver="virtio-net-pci")
    order: list[str] = []
    wait, plug = Resident.wait_renewed, handshake._plug

    async def watch_renewal(self: Resident) -> None:
        await wait(self)
        order.append("renewed")

    async def watch_plug(*given: object) -> None:
        order.append("plugged")
        await plug(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Resident, "wait_renewed", watch_renewal)
    monkeypatch.setattr(handshake, "_plug", watch_plug)
    async with await template.fork() as fork:
        assert order == ["renewed", "plugged"]
        await meet(fork, parse_guest_condition("exec:test -e /sys/class/net/eth1"))
        assert await shell(fork, "cat /sys/class/net/eth1/address") == fork.plan.networks[1].mac


async def test_a_fork_whose_guest_cannot_be_renewed_is_not_handed_out(roots: Roots) -> None:
    template = await kvmctl.create_template("small", SPEC)
    assert template.record.is_resident
    template.record = template.record._replace(renew=("/run/nothing",), is_resident=False)
    with pytest.raises(kvmctl.AgentError):
        await template.fork()
    assert kvmctl.list_machines(include_stopped=True) == []


@pytest.mark.parametrize(
    ("agent", "program"),
    [({"resident": True}, "resident"), ({}, "kvmctl-resident")],
    ids=["the-guests-own", "put-there"],
)
async def test_the_agent_is_asked_when_the_program_that_waits_in_the_guest_is_gone(
    tmp_path: Path, agent: dict[str, object], program: str
) -> None:
    spec = read_mapping(str(SPEC)) | {"agent": agent}
    template = await kvmctl.create_template("small", from_mapping(spec, source=str(SPEC), base=str(SPEC.parent)))
    async with await template.fork() as fork:
        assert f"/{program} /dev/" in await shell(fork, "tr '\\0' ' ' </proc/$PPID/cmdline")
        closed = fork.wait_for_event("VSERPORT_CHANGE")
        found = await kvmctl.Vm.exec(fork, ["sh", "-c", f"tr '\\0' ' ' </proc/$PPID/cmdline; killall {program}"])
        assert b"qemu-ga" in found.stdout
        await closed
        assert "qemu-ga" in await shell(fork, "tr '\\0' ' ' </proc/$PPID/cmdline")
        (tmp_path / "file").write_bytes(b"it")
        await fork.copy_in(str(tmp_path / "file"), "/tmp/file")
        assert await shell(fork, "cat /tmp/file") == "it"


SLOW_NEIGHBOURS = [
    "ip link set eth0 down",
    "echo 4000 >/proc/sys/net/ipv6/neigh/eth0/retrans_time_ms",
    "ip link set eth0 up",
]
"""A kernel that waits for so many milliseconds, and does nothing at all, before an address is its own."""


@pytest.mark.parametrize("commands", [[], SLOW_NEIGHBOURS], ids=["as-it-boots", "idle-meanwhile"])
async def test_a_guest_has_come_to_rest_before_it_is_frozen(commands: list[str]) -> None:
    template = await kvmctl.create_template("small", SPEC, run=commands)
    async with await template.fork() as fork:
        addresses = await shell(fork, "ip -6 addr show eth0")
        assert "fe80::" in addresses
        assert "tentative" not in addresses  # else the kernel is in the middle of looking for the same one elsewhere


async def test_a_command_that_a_reset_ends_is_told_of() -> None:
    template = await kvmctl.create_template("small", SPEC)
    async with await template.fork() as fork:
        begun = asyncio.Event()
        running = asyncio.ensure_future(fork.exec(["sh", "-c", "echo; sleep 60"], on_stdout=lambda _: begun.set()))
        await begun.wait()
        await fork.reset()
        with pytest.raises(kvmctl.AgentError, match="restarted in the middle"):
            await running


async def test_a_command_whose_machine_ends_is_told_of() -> None:
    template = await kvmctl.create_template("small", SPEC)
    async with await template.fork() as fork:
        begun = asyncio.Event()
        running = asyncio.ensure_future(fork.exec(["sh", "-c", "echo; sleep 60"], on_stdout=lambda _: begun.set()))
        await begun.wait()
        await fork.kill()
        with pytest.raises(kvmctl.NotRunning):
            await running


async def test_commands_at_the_same_time_do_not_wait_for_each_other() -> None:
    template = await kvmctl.create_template("small", SPEC)
    async with await template.fork() as fork:
        first = asyncio.ensure_future(shell(fork, "until [ -e /tmp/go ]; do sleep 0.1; done; echo first"))
        await asyncio.sleep(0)
        assert await shell(fork, "touch /tmp/go; echo second") == "second"
        assert await first == "first"


async def test_a_guest_without_a_port_for_it_is_renewed_by_its_agent() -> None:
    spec = read_mapping(str(SPEC)) | {"agent": {"transfer": False, "resident": False}}
    machine = from_mapping(spec, source=str(SPEC), base=str(SPEC.parent))
    template = await kvmctl.create_template("small", machine)
    assert not template.record.is_resident
    async with await template.fork() as fork:
        assert abs(int(await shell(fork, "date +%s")) - time.time()) < 5


async def test_a_fork_takes_little_memory_and_still_has_a_kernel_to_reboot_with() -> None:
    template = await kvmctl.create_template("small", SPEC)
    async with await template.fork() as fork:
        assert sum(item.private_dirty for item in psutil.Process(fork.pid).memory_maps(grouped=False)) < MEMORY_MAX
        await shell(fork, "echo gone >/run/mark")
        reset = fork.wait_for_event("RESET")
        await fork.agent().shut_down("reboot")
        await reset
        await fork.wait_for_console(r"guest agent started")
        await conditions.wait_agent(fork, note=server.ignore)
        assert await shell(fork, "test -e /run/mark || echo fresh") == "fresh"
    template.check()


async def test_a_guest_without_a_driver_for_generation_ids_hears_nothing_of_them() -> None:
    template = await kvmctl.create_template("small", SPEC)
    async with await template.fork() as fork:
        assert await shell(fork, "ls /sys/bus/acpi/drivers | grep vmgenid || echo none") == "none"
        assert "disabled" in await shell(fork, "cat /sys/firmware/acpi/interrupts/gpe05")
        assert await shell(fork, "cat /sys/firmware/acpi/interrupts/sci") == "0"  # it ran no ACPI code
        assert fork.plan.guest.acpi


async def test_a_command_that_fails_makes_no_template(roots: Roots) -> None:
    with pytest.raises(kvmctl.CommandFailed, match="'echo no; exit 3' failed in the guest with status 3") as caught:
        await kvmctl.create_template("small", SPEC, run=["echo no; exit 3"])
    assert caught.value.detail == "no"
    assert kvmctl.template_names() == []
    assert not Path(roots.unfinished_template("small").directory).exists()


async def test_a_port_of_the_guest_is_waited_for_from_within() -> None:
    machine = kvmctl.load(SPEC)
    run = "(sleep 1; nc -l -p 4444) >/dev/null 2>&1 &"
    async with kvmctl.launch(machine) as vm:
        await vm.wait_for_agent()
        await vm.exec(["sh", "-c", run])
        began = time.monotonic()
        await meet(vm, parse_guest_condition("port:4444"))
        assert time.monotonic() - began > 0.3
        assert "4444" in await shell(vm, "netstat -ltn")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "is nothing to wait for") for text in ("", "agent:x", "console", "console:", "port:", "soon")),
        *((text, "is no TCP port") for text in ("port:0", "port:70000", "port:x")),
        *((text, "is nothing that a guest comes to") for text in ("running", "stopped", "event:STOP")),
    ],
)
async def test_what_cannot_be_waited_for_is_told_before_anything_boots(roots: Roots, text: str, said: str) -> None:
    with pytest.raises(kvmctl.KvmctlError, match=said):
        await kvmctl.create_template("small", SPEC, until=text)
    assert not Path(roots.templates).exists() or not any(Path(roots.templates).iterdir())


async def test_it_is_frozen_when_a_command_of_the_guest_succeeds() -> None:
    template = await kvmctl.create_template("small", SPEC, until="exec:test -e /sys/class/net/eth0")
    assert template.record.source.until == "exec:test -e /sys/class/net/eth0"
    async with await template.fork() as fork:
        assert await shell(fork, "ls /sys/class/net") != ""


async def test_a_lease_is_ready_at_once() -> None:
    template = await kvmctl.create_template("small", SPEC)
    async with kvmctl.Pool(template, size=1) as pool:
        async with pool.lease() as first:
            await first.exec(["true"])
        async with pool.lease() as second:
            assert (await second.exec(["true"])).exit_code == 0
            assert second.name != first.name


async def test_many_forks_at_once_are_all_there_or_none(roots: Roots) -> None:
    template = await kvmctl.create_template("small", SPEC)
    names = [f"f{number}" for number in range(6)]
    await template.fork_detached(names, hostnames=True)
    assert [machine.name for machine in kvmctl.list_machines()] == names
    async with asyncio.TaskGroup() as group:
        told = {name: group.create_task(_hostname(name)) for name in names}
    assert {name: task.result() for name, task in told.items()} == {name: name for name in names}
    for name in names:
        kvmctl.kill(name)
    assert not kvmctl.list_templates()[0].in_use


async def _hostname(name: str) -> str:
    async with kvmctl.attach(name) as vm:
        return await shell(vm, "hostname")
