"""What goes wrong around a machine that runs: clients in the way, processes stopped and killed, files that lie."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kvmctl
from kvmctl import ExitReason, MachinePaths, Roots, Rung, State, find_verdict
from kvmctl.runtime.sockets import connect_unix

from .conftest import tiny

pytestmark = [pytest.mark.qemu]


@pytest.fixture
async def paths(roots: Roots) -> AsyncIterator[MachinePaths]:
    """The files of a running machine called web, which is ended afterwards if the test has not."""
    async with await kvmctl.start(tiny()) as vm:
        await vm.wait_for_console("^READY")
    yield vm.paths
    if kvmctl.find_machine("web").state is not State.STOPPED:
        kvmctl.kill("web")


@contextmanager
def other_process(script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


HOLD_MONITOR = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
print(client.recv(4096), flush=True)
sys.stdin.read()
"""


async def test_fifty_commands_at_once_are_all_answered(paths: MachinePaths) -> None:
    async with kvmctl.attach("web") as vm:
        states = await asyncio.gather(*(vm.status() for _ in range(50)))
    assert {status.state for status in states} == {State.RUNNING}


async def test_a_client_that_holds_the_monitor_is_named(paths: MachinePaths) -> None:
    with other_process(HOLD_MONITOR, paths.qmp) as holder:
        async with kvmctl.attach("web") as vm:
            vm.deadline = 0.5
            with pytest.raises(kvmctl.MonitorBusy, match=f"held by process {holder.pid}") as caught:
                await vm.status()
    assert caught.value.holder == holder.pid


async def test_a_held_monitor_hides_the_machine_from_nobody(paths: MachinePaths) -> None:
    with other_process(HOLD_MONITOR, paths.qmp):
        (machine,) = kvmctl.list_machines()
        assert machine.state is State.RUNNING
        async with kvmctl.attach("web") as vm:
            result = await kvmctl.stop(vm, grace=20)
    assert result.rung in {Rung.AGENT, Rung.QUIT}


async def test_the_next_client_is_served_when_the_one_before_leaves(paths: MachinePaths) -> None:
    with other_process(HOLD_MONITOR, paths.qmp) as holder:
        async with kvmctl.attach("web") as vm:
            waiting = asyncio.create_task(vm.status())
            await asyncio.sleep(0)
            holder.kill()
            assert (await waiting).state is State.RUNNING


async def test_a_stopped_qemu_is_said_to_be_at_the_deadline(paths: MachinePaths) -> None:
    async with kvmctl.attach("web") as vm:
        os.kill(vm.pid, signal.SIGSTOP)
        vm.deadline = 0.5
        with pytest.raises(kvmctl.DeadlineExceeded, match=r"(?s)within 0.5 s.*SIGCONT"):
            await vm.status()
        os.kill(vm.pid, signal.SIGCONT)
        vm.deadline = 10
        assert (await vm.status()).state is State.RUNNING


async def test_a_stopped_qemu_is_listed_and_can_be_killed(paths: MachinePaths) -> None:
    async with kvmctl.attach("web") as vm:
        os.kill(vm.pid, signal.SIGSTOP)
    assert kvmctl.find_machine("web").state is State.RUNNING
    assert kvmctl.kill("web").exit.reason is ExitReason.KILLED


@pytest.mark.slow
async def test_stopping_a_stopped_qemu_ends_by_its_deadlines(paths: MachinePaths) -> None:
    async with kvmctl.attach("web") as vm:
        os.kill(vm.pid, signal.SIGSTOP)
        result = await kvmctl.stop(vm, grace=1)
    assert result.rung is Rung.KILL
    assert Rung.QUIT in [rung for rung, _ in result.tried]


async def test_a_killed_qemu_is_known_to_have_been(paths: MachinePaths) -> None:
    async with kvmctl.attach("web") as vm:
        os.kill(vm.pid, signal.SIGKILL)
        assert (await vm.wait()).reason is ExitReason.KILLED
        with pytest.raises(kvmctl.NotRunning):
            await vm.status()
    machine = kvmctl.find_machine("web")
    assert machine.state is State.STOPPED
    assert machine.exit is not None
    assert machine.exit.reason is ExitReason.KILLED
    with pytest.raises(kvmctl.NotRunning, match="'web' is not running"):
        kvmctl.attach("web")


async def test_a_qemu_that_nobody_saw_crash_is_not_said_to_have_been_killed(paths: MachinePaths) -> None:
    async with kvmctl.attach("web") as vm:
        os.kill(vm.pid, signal.SIGSEGV)
        end = await vm.wait()
    assert (end.words, end.status) == ("killed or crashed", None)
    assert "killed or crashed" in end.detail
    assert find_verdict("web").summary == "QEMU was killed or crashed, and it was not kvmctl"


async def test_a_machine_starts_again_after_its_qemu_was_killed(paths: MachinePaths) -> None:
    kvmctl.kill("web")
    async with await kvmctl.start(tiny()) as vm:
        assert (await vm.status()).state is State.RUNNING


@pytest.mark.parametrize("verb", [kvmctl.kill, kvmctl.force_stop])
async def test_a_forged_pid_file_gets_no_innocent_killed(paths: MachinePaths, verb: object) -> None:
    with other_process("print(1, flush=True); input()") as innocent:
        Path(paths.pid).write_text(f"{innocent.pid}\n")
        assert callable(verb)
        verb("web")
        assert innocent.poll() is None
    assert kvmctl.find_machine("web").state is State.STOPPED


def test_a_forged_pid_file_of_a_machine_that_is_not_running_is_no_target(roots: Roots) -> None:
    paths = roots.machine("web")
    os.makedirs(paths.run)
    for path in (paths.lock, paths.plan, paths.journal):
        Path(path).write_text("{}")
    with other_process("print(1, flush=True); input()") as innocent:
        Path(paths.pid).write_text(f"{innocent.pid}\n")
        for verb in (kvmctl.kill, kvmctl.force_stop):
            with pytest.raises(kvmctl.NotRunning):
                verb("web")
        assert innocent.poll() is None


async def test_after_a_reboot_the_stale_run_directory_is_a_stopped_machine_that_starts(roots: Roots) -> None:
    paths = roots.machine("web")
    os.makedirs(paths.run)
    for path in (paths.lock, paths.plan, paths.pid, paths.journal):
        Path(path).write_text("1\n")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(paths.qmp)
    stale.close()
    assert kvmctl.find_machine("web").state is State.STOPPED
    async with await kvmctl.start(tiny()) as vm:
        assert (await vm.status()).state is State.RUNNING
        await vm.kill()


def test_a_directory_that_cant_be_understood_is_listed_with_the_reason(roots: Roots) -> None:
    paths = roots.machine("odd")
    os.makedirs(paths.journal)
    Path(paths.plan).write_text("{}")
    (machine,) = kvmctl.list_machines()
    assert (machine.name, machine.state) == ("odd", State.BROKEN)
    assert machine.problem


async def test_the_second_console_is_told_who_has_the_first(paths: MachinePaths) -> None:
    script = "import kvmctl, sys; c = kvmctl.open_console('web'); print(1, flush=True); sys.stdin.read()"
    with other_process(script) as holder, pytest.raises(kvmctl.ConsoleBusy, match=f"by process {holder.pid}"):
        kvmctl.open_console("web")
    with kvmctl.open_console("web") as console:
        console.send(b"z")
        seen = b""
        while b"<z>" not in seen:
            seen += console.receive()


async def test_a_machine_dies_with_the_process_it_was_launched_for(roots: Roots) -> None:
    from .scripts import start_script  # the only test that needs it

    owner = start_script("""
async def main():
    async with kvmctl.launch(tiny(), name="captive") as vm:
        print(vm.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
""")
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    pidfd = os.pidfd_open(pid)
    owner.kill()
    owner.communicate()
    try:
        async with asyncio.timeout(10):
            await readable(pidfd)
    finally:
        os.close(pidfd)
    assert kvmctl.list_machines(include_stopped=True) == []
    assert os.listdir(roots.runtime) == []


async def readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    await ready.wait()
    loop.remove_reader(descriptor)


async def test_a_monitor_that_is_gone_is_a_machine_that_does_not_answer(paths: MachinePaths) -> None:
    os.unlink(paths.qmp)
    async with kvmctl.attach("web") as vm:
        with pytest.raises(kvmctl.MonitorLost, match="does not answer"):
            await vm.status()
    with pytest.raises(FileNotFoundError):
        connect_unix(paths.qmp)
