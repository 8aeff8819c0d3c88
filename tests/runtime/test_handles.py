"""Handles on machines: closed early, held too long, two on one machine, and machines that change beneath them."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from pathlib import Path

import pytest

import kvmctl
from kvmctl import ExitReason, Roots, Rung, State, files
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import store
from kvmctl.runtime.journal import read_events

from .conftest import end_all, tiny
from .scripts import start_script

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("roots")]


async def test_how_a_launched_machine_ended_is_known_after_its_context() -> None:
    async with kvmctl.launch(tiny()) as vm:
        assert vm.is_alive
    assert not vm.is_alive
    assert (await vm.wait()).reason is ExitReason.HOST_QUIT
    assert await vm.wait() == await vm.quit() == await vm.kill()
    with pytest.raises(kvmctl.NotRunning, match="has ended"):
        await vm.status()
    with pytest.raises(kvmctl.NotRunning, match="ended before"):
        await vm.wait_for_console("READY")
    assert [event async for event in vm.events()] == []


@pytest.mark.parametrize("how", ["close", "context"])
async def test_closing_a_launched_machines_handle_leaves_its_end_to_its_context(roots: Roots, how: str) -> None:
    async with kvmctl.launch(tiny()) as vm:
        if how == "close":
            await vm.close()
        else:
            async with vm:
                pass
        assert (await vm.status()).state is State.RUNNING
    assert end_all(roots.runtime) == []
    assert os.listdir(roots.runtime) == []


async def test_a_closed_handle_says_so() -> None:
    vm = await kvmctl.start(tiny())
    await vm.close()
    await vm.close()
    assert repr(vm) == "<Vm 'web' closed>"
    with pytest.raises(kvmctl.KvmctlError, match="was let go of"):
        await vm.wait()
    with pytest.raises(kvmctl.KvmctlError, match="was let go of"):
        _ = vm.is_alive
    kvmctl.kill("web")


async def test_a_handle_shows_its_name_and_what_it_is_on() -> None:
    async with kvmctl.launch(tiny(), name="web") as vm:
        assert repr(vm) == f"<Vm 'web' running, process {vm.pid}>"
        await vm.kill()
        assert repr(vm) == f"<Vm 'web' ended, process {vm.pid}>"


async def test_who_waits_when_the_handle_is_closed_is_still_told_of_the_end() -> None:
    async with await kvmctl.start(tiny()) as vm:
        async with kvmctl.attach("web") as other:
            waiting = asyncio.create_task(other.wait())
            await asyncio.sleep(0)
        await vm.kill()
        with pytest.raises(kvmctl.KvmctlError, match="was let go of"):
            await waiting


async def test_everybody_who_waits_is_told_the_same() -> None:
    async with kvmctl.launch(tiny()) as vm, kvmctl.attach(vm.name) as other, asyncio.TaskGroup() as group:
        waiting = [group.create_task(handle.wait()) for handle in (vm, vm, other, other)]
        await asyncio.sleep(0)
        await other.kill()
    assert {task.result().reason for task in waiting} == {ExitReason.KILLED}


async def test_a_handle_on_another_owners_machine_knows_how_it_ended_when_all_of_it_is_gone(roots: Roots) -> None:
    owner = start_script("""
async def main():
    async with kvmctl.launch(tiny(), name="captive") as vm:
        print("up", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
""")
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    async with kvmctl.attach("captive") as vm:
        await asyncio.to_thread(owner.communicate)
        assert not os.path.exists(vm.paths.run)
        assert (await vm.wait()).reason is ExitReason.HOST_QUIT
    assert owner.returncode == 0


async def test_the_next_run_is_not_taken_for_the_one_that_was_waited_for() -> None:
    async with await kvmctl.start(tiny()) as first, kvmctl.attach("web") as watcher:
        kvmctl.force_stop("web")
        async with await kvmctl.start(tiny()) as second:
            assert (await watcher.wait()).reason is ExitReason.HOST_QUIT
            assert (await first.wait()).reason is ExitReason.HOST_QUIT
            assert "KVMCTL_EXIT" not in [event.name for event in read_events(second.paths)]
            assert (await second.kill()).reason is ExitReason.KILLED


async def test_stop_of_a_machine_without_its_monitor_ends_it_all_the_same() -> None:
    async with await kvmctl.start(tiny(agent=False)) as vm:
        os.unlink(vm.paths.qmp)
        result = await kvmctl.stop(vm, grace=1)
    assert result.rung is Rung.QUIT
    assert result.exit.reason is ExitReason.HOST_QUIT


async def test_two_stops_at_once_both_end_with_it_stopped() -> None:
    async with await kvmctl.start(tiny()) as vm, kvmctl.attach("web") as other:
        await vm.wait_for_console("^READY")
        results = await asyncio.gather(kvmctl.stop(vm, grace=20), kvmctl.stop(other, grace=20), kvmctl.stop(vm))
    assert {result.exit.reason for result in results} == {ExitReason.GUEST_SHUTDOWN}


async def test_one_name_is_one_machine_at_a_time() -> None:
    async with kvmctl.launch(tiny(), name="one") as vm:
        with pytest.raises(kvmctl.AlreadyRunning, match=f"held by process {os.getpid()}"):
            async with kvmctl.launch(tiny(), name="one"):
                pass
        with pytest.raises(kvmctl.AlreadyRunning):
            await kvmctl.start(tiny(), name="one")
        assert (await vm.status()).state is State.RUNNING
        await vm.kill()
        with pytest.raises(kvmctl.AlreadyRunning):  # its context has not ended
            await kvmctl.start(tiny(), name="one")
    async with kvmctl.launch(tiny(), name="one") as vm:
        assert vm.is_alive


async def test_a_machine_can_be_killed_on_a_disk_that_takes_no_note() -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with await kvmctl.start(tiny()) as vm:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
        try:
            end = await vm.kill()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert end.reason is ExitReason.KILLED
    assert end.status is None


async def test_a_suspended_guest_is_woken_to_shut_down() -> None:
    async with kvmctl.launch(tiny(agent=False)) as vm:
        await vm.wait_for_console("^READY")
        suspended = vm.wait_for_event("SUSPEND")
        # SLP_EN, S3 into PM1a_CNT of Q35: QEMU 7.2 takes no single byte of it, 11.1's "o" loses one of a word.
        for line in ("o /w 0x604 0x2400", "o /b 0x605 0x24"):
            await vm.qmp("human-monitor-command", {"command-line": line})
        await suspended
        assert kvmctl.find_machine(vm.name).state is State.SUSPENDED
        result = await kvmctl.stop(vm, grace=6)
    assert result.rung in {Rung.ACPI, Rung.ACPI_AGAIN}
    assert result.exit.reason is ExitReason.GUEST_SHUTDOWN


async def test_an_event_is_waited_for_from_the_call_on() -> None:
    async with kvmctl.launch(tiny()) as vm:
        stopped, resumed = vm.wait_for_event("STOP"), vm.wait_for_event("RESUME")
        await vm.pause()
        assert (await stopped).name == "STOP"
        await vm.resume()
        assert (await resumed).name == "RESUME"


async def test_a_command_in_a_machine_that_ends_is_told_so() -> None:
    async with kvmctl.launch(tiny(cmdline="agent=silent")) as vm:
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(_ended(work)) for work in (vm.exec(["true"]), vm.wait_for_agent())]
            await vm.wait_for_console("^READY")
            await vm.kill()
        assert [task.result() for task in waiting] == [True, True]


async def _ended(work: object) -> bool:
    with pytest.raises(kvmctl.NotRunning):
        await work  # type: ignore[misc]
    return True


async def test_a_qemu_that_hangs_in_the_middle_of_a_long_command_holds_nobody_up(roots: Roots) -> None:
    async with asyncio.timeout(30), kvmctl.launch(tiny()) as vm, kvmctl.attach(vm.name) as other:

        async def ask_at_length() -> None:
            async with other.monitor(deadline=1) as monitor:
                os.kill(vm.pid, signal.SIGSTOP)
                await monitor.execute("query-status", {"filler": "x" * (4 << 20)})

        with pytest.raises(kvmctl.DeadlineExceeded):
            await ask_at_length()
        os.kill(vm.pid, signal.SIGCONT)
    assert os.listdir(roots.runtime) == []


async def test_an_answer_that_came_too_late_is_not_taken_for_the_next() -> None:
    async with kvmctl.launch(tiny()) as vm:
        os.kill(vm.pid, signal.SIGSTOP)
        vm.deadline = 0.1
        with pytest.raises(kvmctl.DeadlineExceeded):
            await vm.qmp("query-name")
        os.kill(vm.pid, signal.SIGCONT)
        vm.deadline = 10
        assert await vm.qmp("query-status") == {"status": "running", "running": True, **await _extra(vm)}
        assert len(await vm.qmp("query-qmp-schema")) > 500


async def _extra(vm: kvmctl.Vm) -> dict[str, object]:
    return {key: value for key, value in (await vm.qmp("query-status")).items() if key == "singlestep"}


async def test_a_lost_private_monitor_is_replaced_by_a_turn_at_the_public_one() -> None:
    async with kvmctl.launch(tiny()) as vm:
        async with vm.monitor() as monitor:
            await monitor.close()
        assert (await vm.status()).state is State.RUNNING


async def test_a_console_outlives_its_machine_without_a_fuss() -> None:
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_console("^READY")
        with kvmctl.open_console(vm.name) as console:
            await vm.kill()
            console.send(b"z")
            while console.receive():
                pass
            console.send(b"z")


def test_a_machine_can_be_used_from_one_event_loop_after_another() -> None:
    vm = asyncio.run(_start())
    assert asyncio.run(vm.status()).state is State.RUNNING
    assert asyncio.run(vm.status()).state is State.RUNNING
    asyncio.run(vm.kill())
    asyncio.run(vm.close())


async def _start() -> kvmctl.Vm:
    return await kvmctl.start(tiny())


def test_a_machine_let_go_of_leaves_no_zombie_when_it_ends() -> None:
    async def start_and_close() -> int:
        async with await kvmctl.start(tiny()) as vm:
            return vm.pid

    pid = asyncio.run(start_and_close())
    kvmctl.kill("web")
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


class TestWhoIsTheMachine:
    """A process is ended only if it keeps the machine's lock, and is not the launcher that has yet to hand it on."""

    def test_not_one_that_asks_whether_it_is_locked(self, roots: Roots) -> None:
        asking = start_script(
            """
file = open(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
""",
            self._locked(paths := roots.machine("web")),
        )
        assert asking.stdout is not None
        assert asking.stdout.readline() == "open\n"
        claim = store.claim(paths, is_captive=False)
        assert store.find_process(paths) is None
        claim.abandon()
        asking.communicate()

    @staticmethod
    def _locked(paths: MachinePaths) -> str:
        files.make_private_dir(paths.run)
        Path(paths.lock).touch()
        Path(paths.plan).touch()
        return paths.lock

    def test_not_its_launcher(self, roots: Roots) -> None:
        launcher = start_script("""
from kvmctl.runtime import store
claim = store.claim(store.find_roots().machine("web"), is_captive=False)
print("claimed", flush=True)
sys.stdin.readline()
""")
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "claimed\n"
        for verb in (kvmctl.kill, kvmctl.force_stop, kvmctl.attach):
            with pytest.raises(kvmctl.NotRunning, match=f"being started by process {launcher.pid}"):
                verb("web")
        launcher.communicate()
        assert launcher.returncode == 0
        assert kvmctl.list_machines(include_stopped=True) == []


def test_a_claim_given_up_leaves_the_next_one_alone(roots: Roots) -> None:
    paths = roots.machine("web")
    first = store.claim(paths, is_captive=True)
    first.abandon()
    second = store.claim(paths, is_captive=True)
    first.abandon()
    assert store.is_tethered(paths)
    second.abandon()
