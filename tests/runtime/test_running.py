"""A machine from its start to its end, on a real QEMU with the tiny guest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import kvmctl
from kvmctl import ExitReason, Roots, Rung, State
from kvmctl.guest.tiny import EXIT_STATUS, Key
from kvmctl.runtime.detached import start_detached
from kvmctl.runtime.events import EXIT

from .conftest import tiny

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("roots")]

DEBUG_EXIT = ("-device", "isa-debug-exit,iobase=0x501,iosize=4")


def type_key(name: str, key: Key) -> None:
    with kvmctl.open_console(name) as console:
        console.send(key.encode())


async def test_launched_machine_runs_and_leaves_nothing(roots: Roots) -> None:
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_console("^READY")
        assert (await vm.status()).state is State.RUNNING
        assert [machine.name for machine in kvmctl.list_machines()] == [vm.name]
    assert os.listdir(roots.runtime) == []
    assert not os.path.exists(roots.state)


async def test_any_number_of_one_spec_run_at_once() -> None:
    async with kvmctl.launch(tiny()) as one, kvmctl.launch(tiny()) as two:
        assert one.name != two.name
        assert one.pid != two.pid


async def test_started_machine_is_there_for_others_and_after_its_end() -> None:
    async with await kvmctl.start(tiny()):
        pass
    async with kvmctl.attach("web") as vm:
        await vm.wait_for_console("^READY")
        result = await kvmctl.stop(vm, grace=20)
    assert result.rung is Rung.AGENT
    assert result.exit.reason is ExitReason.GUEST_SHUTDOWN
    (machine,) = kvmctl.list_machines(include_stopped=True)
    assert machine.state is State.STOPPED
    assert machine.exit is not None
    assert machine.exit.reason is ExitReason.GUEST_SHUTDOWN


async def test_the_end_of_the_run_before_is_known_after_a_new_start() -> None:
    for _ in range(2):
        async with await kvmctl.start(tiny()) as vm:
            await vm.kill()
    paths = kvmctl.find_roots().machine("web")
    assert len(Path(paths.history).read_text().splitlines()) == 1


async def test_pausing_stops_the_guests_time() -> None:
    async with kvmctl.launch(tiny()) as vm:
        await vm.pause()
        assert (await vm.status()).state is State.PAUSED
        assert kvmctl.find_machine(vm.name).state is State.PAUSED
        await vm.resume()
        assert kvmctl.find_machine(vm.name).state is State.RUNNING


async def test_reset_boots_again() -> None:
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_console("^READY")
        was_reset = vm.wait_for_event("RESET")
        await vm.reset()
        assert (await was_reset).name == "RESET"


@pytest.mark.parametrize(
    ("word", "reason", "tables"),
    [
        ("off", ExitReason.GUEST_SHUTDOWN, {}),
        ("reset", ExitReason.GUEST_RESET, {"on_reboot": "shutdown"}),
        ("triple-fault", ExitReason.GUEST_RESET, {"on_reboot": "shutdown"}),
        ("panic", ExitReason.GUEST_PANIC, {"on_crash": "shutdown"}),
        ("exit=16", ExitReason.EXITED, {"extra_args": DEBUG_EXIT}),
    ],
)
async def test_exit_reason_says_what_the_guest_did(word: str, reason: ExitReason, tables: dict[str, object]) -> None:
    async with await kvmctl.start(tiny(cmdline=word, **tables)) as vm:
        end = await vm.wait()
    assert end.reason is reason
    machine = kvmctl.find_machine("web")
    assert machine.exit == end


async def test_exit_status_of_the_guests_choosing_reaches_us() -> None:
    async with await kvmctl.start(tiny(extra_args=DEBUG_EXIT)) as vm:
        await vm.wait_for_console("^READY")
        type_key(vm.name, Key.EXIT)
        end = await vm.wait()
    assert end.status == EXIT_STATUS


async def test_a_panicked_guest_can_be_looked_at() -> None:
    async with kvmctl.launch(tiny(cmdline="panic", on_crash="pause")) as vm:
        await seen(vm, "STOP")
        assert (await vm.status()).state is State.PANICKED
        assert kvmctl.find_machine(vm.name).state is State.PANICKED


async def test_quit_and_kill_are_told_apart() -> None:
    async with await kvmctl.start(tiny("one")) as vm:
        assert (await vm.quit()).reason is ExitReason.HOST_QUIT
    async with await kvmctl.start(tiny("two")) as vm:
        assert (await vm.kill()).reason is ExitReason.KILLED


async def test_events_are_told_from_the_first_to_the_last() -> None:
    async with await kvmctl.start(tiny(cmdline="off")) as vm:
        names = [event.name async for event in vm.events()]
        await vm.wait()
    assert names[0] == "RESUME"
    assert "SHUTDOWN" in names
    assert EXIT not in names


async def test_a_watcher_that_was_there_before_the_end_sees_it() -> None:
    async with await kvmctl.start(tiny()) as vm, asyncio.TaskGroup() as group:
        names = group.create_task(collect(vm))
        await vm.wait_for_console("^READY")
        await kvmctl.stop(vm, grace=20)
    assert names.result()[-1] == "SHUTDOWN"


async def seen(vm: kvmctl.Vm, name: str) -> None:
    """Wait until the event `name` has come, now or before."""
    async for event in vm.events():
        if event.name == name:
            return


async def collect(vm: kvmctl.Vm) -> list[str]:
    return [event.name async for event in vm.events()]


async def test_console_says_only_what_the_guest_said_even_if_it_says_nothing_more() -> None:
    async with await kvmctl.start(tiny(cmdline="off")) as vm:
        with pytest.raises(kvmctl.NotRunning, match="ended before 'never said'"):
            await vm.wait_for_console("never said")


class TestStopLadder:
    async def test_the_agent_is_asked_first(self) -> None:
        async with kvmctl.launch(tiny()) as vm:
            await vm.wait_for_agent()
            assert (await kvmctl.stop(vm, grace=20)).rung is Rung.AGENT

    async def test_without_an_agent_the_button_is_pressed(self) -> None:
        async with kvmctl.launch(tiny(agent=False)) as vm:
            await vm.wait_for_console("^READY")
            result = await kvmctl.stop(vm, grace=20)
        assert (result.rung, result.tried) == (Rung.ACPI, ())
        assert result.exit.reason is ExitReason.GUEST_SHUTDOWN

    async def test_a_silent_agent_costs_its_turn_and_no_more(self) -> None:
        async with kvmctl.launch(tiny(cmdline="agent=silent")) as vm:
            await vm.wait_for_console("^READY")
            result = await kvmctl.stop(vm, grace=20)
        assert result.rung is Rung.ACPI
        assert [rung for rung, _ in result.tried] == [Rung.AGENT]

    async def test_a_guest_that_hears_nothing_is_ended_when_its_time_is_up(self) -> None:
        async with kvmctl.launch(tiny(cmdline="agent=silent deaf")) as vm:
            await vm.wait_for_console("^READY")
            result = await kvmctl.stop(vm, grace=0.9)
        assert [rung for rung, _ in result.tried] == [Rung.AGENT, Rung.ACPI, Rung.ACPI_AGAIN]
        assert result.seconds < 2  # which a silent agent alone would take

    async def test_a_guest_that_ignores_the_button_is_ended_when_its_time_is_up(self) -> None:
        async with kvmctl.launch(tiny(cmdline="deaf", agent=False)) as vm:
            await vm.wait_for_console("^READY")
            result = await kvmctl.stop(vm, grace=0.4)
        assert result.rung is Rung.QUIT
        assert [rung for rung, _ in result.tried] == [Rung.ACPI, Rung.ACPI_AGAIN]
        assert result.exit.reason is ExitReason.HOST_QUIT

    async def test_a_paused_guest_is_let_run_to_shut_down(self) -> None:
        async with kvmctl.launch(tiny(agent=False)) as vm:
            await vm.wait_for_console("^READY")
            await vm.pause()
            assert (await kvmctl.stop(vm, grace=20)).rung is Rung.ACPI

    async def test_a_panicked_guest_is_not_asked(self) -> None:
        async with kvmctl.launch(tiny(cmdline="panic", on_crash="pause")) as vm:
            await seen(vm, "STOP")
            result = await kvmctl.stop(vm, grace=20)
        assert (result.rung, result.tried) == (Rung.QUIT, ())

    async def test_a_guest_that_shut_down_and_stayed_is_ended(self) -> None:
        async with kvmctl.launch(tiny(cmdline="off", on_poweroff="pause")) as vm:
            await seen(vm, "STOP")
            assert kvmctl.find_machine(vm.name).state is State.SHUTDOWN
            assert (await kvmctl.stop(vm, grace=20)).rung is Rung.QUIT


async def test_a_machine_that_outlives_its_login_session_is_warned_of(roots: Roots) -> None:
    if list(Path("/var/lib/systemd/linger").glob("*")):
        pytest.skip("the sessions of this host's users stay after logout")
    session = roots._replace(runtime_is_volatile=True)
    started = await asyncio.to_thread(start_detached, "tiny", roots=session)
    kvmctl.kill("tiny")
    async with await kvmctl.start("tiny", roots=session) as vm:
        await vm.kill()
    for warnings in (started.warnings, vm.plan.warnings):
        assert "vanishes when" in warnings[-1]
        assert "loginctl enable-linger" in warnings[-1]
    async with kvmctl.launch("tiny", roots=session) as vm:  # which ends before any logout
        assert not any("linger" in warning for warning in vm.plan.warnings)


async def test_starting_without_a_loop_is_refused_within_one_before_anything_is_started(roots: Roots) -> None:
    with pytest.raises(RuntimeError, match=r"await kvmctl\.start"):
        start_detached("tiny")
    assert not os.path.exists(roots.runtime)


async def test_a_defined_machine_stays_the_type_it_was_first_started_as(tmp_path: Path) -> None:
    spec = tmp_path / "web.toml"
    spec.write_text('memory = "16MiB"\nfirmware = "qboot.rom"\n[boot]\nkernel = "builtin:tiny"\n')
    kvmctl.define(str(spec))
    async with await kvmctl.start("web") as vm:
        first = vm.plan.machine_type
        await vm.kill()
    older = next(name for name in ("pc-q35-6.2", "pc-q35-7.0") if name != first)
    Path(vm.paths.machine_type).write_text(f"{older}\n")

    assert first.startswith("pc-q35-")
    assert kvmctl.prepare("web").plan.machine_type == older
    kvmctl.remove("web")
