"""Machines that have ended and boot again from their own disks: forks, and those that ``launch`` runs."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import psutil
import pytest
from interruption import Interruption

import kvmctl
from kvmctl import Fork, Roots, Template, Vm
from kvmctl.guest.tiny import IMAGE, Key
from kvmctl.plan.option import jsonopt
from kvmctl.runtime import again

from .conftest import frozen_tiny, qemus, tiny
from .scripts import run_killed

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("roots")]

ROOT = Path(__file__).parents[2]
KILLED = """
import asyncio, importlib, os, signal, sys
sys.path.insert(0, {tests!r})
import kvmctl
from runtime.test_booted_again import cut, frozen_disk
async def work():
    template = await frozen_disk()
    async with await template.fork(name="one") as fork:
        await cut(fork)
        module, _, name = {where!r}.partition(":")
        setattr(importlib.import_module(module), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        await fork.start()
asyncio.run(work())
"""
STOPS = {
    "before QEMU is started": "kvmctl.runtime.spawn:_exec",
    "when QEMU was started": "kvmctl.runtime.again:let_go",
    "when it runs": "kvmctl.runtime.handle:Monitors",
}
"""Functions in the way of a start, by what they stand before."""


async def frozen_disk(*, refresh: bool = False) -> Template:
    """The template of a tiny guest that boots from a disk of its own, and counts there how often."""
    image = Path(os.environ["KVMCTL_STATE_DIR"]).parent / "disk.img"
    if not image.exists():
        shutil.copy(IMAGE, image)
        os.truncate(image, 1 << 20)
    machine = tiny(firmware="bios", boot={}, disks=[{"path": str(image), "format": "raw"}])
    return await frozen_tiny(machine, refresh=refresh)


async def count(vm: Vm, expected: int) -> None:
    """Have the guest count a boot on its disk."""
    with kvmctl.open_console(vm.name) as console:
        console.send(Key.COUNT.encode())
    await vm.wait_for_console(f"boots={expected}")


async def cut(fork: Fork) -> None:
    """Have something on the fork's disk, and cut its power."""
    await count(fork, 2)
    await fork.kill()


def ephemeral(roots: Roots) -> list[str]:
    """The machines that have disks of a run."""
    return os.listdir(roots.ephemeral) if os.path.exists(roots.ephemeral) else []


async def test_a_fork_boots_from_its_own_disk_as_the_machine_that_it_was(roots: Roots) -> None:
    template = await frozen_disk()
    async with await template.fork() as fork:
        name, uuid, pid = fork.name, fork.plan.uuid, fork.pid
        await cut(fork)
        for boots in (3, 4):
            await fork.start()
            await fork.wait_for_console(f"boot=D .*boots={boots}")
            await fork.wait_for_console("^READY")
            assert (fork.name, (await fork.qmp("query-uuid"))["UUID"]) == (name, uuid)
            assert fork.pid != pid
            assert template.paths.memory not in " ".join(psutil.Process(fork.pid).cmdline())
            assert kvmctl.list_templates()[0].in_use  # its disk lies over the template's
            assert (await fork.kill()).reason is kvmctl.ExitReason.KILLED
    template.check()
    assert os.listdir(roots.runtime) == ephemeral(roots) == []
    async with await template.fork() as fork:
        await count(fork, 2)  # nothing of it was written to the template


async def test_a_guest_that_has_powered_off_is_switched_on_again() -> None:
    template = await frozen_tiny()
    async with await template.fork() as fork:
        with kvmctl.open_console(fork.name) as console:
            console.send(Key.POWER_OFF.encode())
        assert (await fork.wait()).reason is kvmctl.ExitReason.GUEST_SHUTDOWN
        await fork.start()
        await fork.wait_for_console("boot=K")
        await fork.wait_for_agent()
        assert (await fork.status()).state is kvmctl.State.RUNNING


async def test_what_launch_runs_keeps_the_disk_that_was_made_for_it(roots: Roots) -> None:
    async with kvmctl.launch(tiny(disks=[{"size": "1MiB"}])) as vm:
        await vm.wait_for_console("^READY")
        (disk,) = Path(vm.paths.disks).iterdir()
        before = disk.stat().st_ino
        await vm.kill()
        await vm.start()
        await vm.wait_for_console("^READY")
        assert disk.stat().st_ino == before
    assert os.listdir(roots.runtime) == ephemeral(roots) == []


async def test_one_that_goes_on_without_us_boots_again_and_still_does(roots: Roots) -> None:
    template = await frozen_disk()
    await template.fork_detached(["one"])
    async with kvmctl.attach("one") as vm:
        await count(vm, 2)
        await vm.kill()
        await vm.start()
        await vm.wait_for_console(r"boots=3")
    async with kvmctl.attach("one") as vm:
        await vm.wait_for_console("^READY")
        await vm.kill()
    kvmctl.remove("one")
    assert os.listdir(roots.runtime) == ephemeral(roots) == []
    assert not os.path.exists(roots.machine("one").state)


async def test_one_that_runs_is_not_started_and_neither_is_one_that_is_gone() -> None:
    template = await frozen_tiny()
    async with await template.fork() as fork:
        with pytest.raises(kvmctl.AlreadyRunning, match=fork.name):
            await fork.start()
        assert fork.is_alive
    with pytest.raises(kvmctl.NotRunning, match="nothing is left"):
        await fork.start()
    await template.fork_detached(["one"])
    async with kvmctl.attach("one") as vm:
        await vm.kill()
        kvmctl.remove("one")
        with pytest.raises(kvmctl.NotRunning, match="nothing is left of 'one'"):
            await vm.start()
    assert kvmctl.list_machines(include_stopped=True) == []


async def test_a_fork_whose_template_was_made_anew_or_removed_is_not_put_on_other_disks() -> None:
    template = await frozen_disk()
    async with await template.fork() as fork:
        await cut(fork)
        await frozen_disk(refresh=True)
        with pytest.raises(kvmctl.TemplateMisfit, match=f"made anew since, and the disks of '{fork.name}'"):
            await fork.start()
        kvmctl.remove_template("small")
        with pytest.raises(kvmctl.NotFound, match="there is no template 'small'"):
            await fork.start()


async def test_a_qemu_that_refuses_ends_it_and_leaves_nothing(roots: Roots) -> None:
    template = await frozen_disk()
    async with await template.fork() as fork:
        await cut(fork)
        broken = jsonopt("device", {"driver": "abacus"}, why="a test")
        fork.plan = fork.plan._replace(options=(*fork.plan.options, broken))
        with pytest.raises(kvmctl.LaunchFailed, match="abacus"):
            await fork.start()
        assert os.listdir(roots.runtime) == ephemeral(roots) == []
        with pytest.raises(kvmctl.NotRunning, match="nothing is left"):
            await fork.start()
    assert not kvmctl.list_templates()[0].in_use


async def test_cancelled_at_any_step_a_start_leaves_nothing(roots: Roots) -> None:
    template = await frozen_disk()
    step, is_done = 1, False
    while not is_done:
        fork = await template.fork()
        await fork.kill()
        interruption = Interruption(step)
        await interruption.run(fork.start)
        is_done = interruption.steps < step
        assert fork.is_alive == is_done
        await fork.dispose()
        assert os.listdir(roots.runtime) == ephemeral(roots) == []
        step += 3


@pytest.mark.parametrize("stop", STOPS)
async def test_who_is_killed_while_it_starts_leaves_nothing_after_the_next_command(roots: Roots, stop: str) -> None:
    run_killed(KILLED.format(where=STOPS[stop], tests=str(ROOT / "tests")))
    assert kvmctl.list_machines(include_stopped=True) == []
    assert os.listdir(roots.runtime) == ephemeral(roots) == []
    with open(roots.template("small").lock, "r+b") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # whoever was killed may be on its way out: waits until nobody has it
    assert not qemus(roots)


async def test_two_that_start_it_at_once_start_it_once() -> None:
    template = await frozen_tiny()
    async with await template.fork() as fork:
        await fork.kill()
        first = again.boot_again(fork.plan, fork.paths, fork._claim)
        await fork.start()
        with pytest.raises(kvmctl.AlreadyRunning):
            await first
        assert fork.is_alive
