"""Being cancelled at every step of a launch, a stop, a wait or a command, once and twice: nothing may be left of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
from interruption import Interruption, Work

import kvmctl
from kvmctl import Roots, Vm

from .conftest import end_all, tiny

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


async def interrupt_everywhere(work: Work, roots: Roots, *, again: int) -> int:
    """Interrupt `work` at its first step, its second and so on until it gets through; how many there were."""
    for step in count(1):
        open_before = os.listdir("/proc/self/fd")
        interruption = Interruption(step, again=again)
        await interruption.run(work)
        assert os.listdir(roots.runtime) == [], f"run directory left by cancelling at step {step}"
        assert end_all(roots.runtime) == [], f"QEMU left by cancelling at step {step}"
        assert asyncio.all_tasks() == {asyncio.current_task()}, f"task left by cancelling at step {step}"
        assert os.listdir("/proc/self/fd") == open_before, f"descriptor left by cancelling at step {step}"
        if interruption.steps < step:
            return step
    raise AssertionError


async def launched(use: Callable[[Vm], Awaitable[object]]) -> None:
    async with kvmctl.launch(tiny()) as vm:
        await use(vm)


async def console(vm: Vm) -> None:
    await vm.wait_for_console("^READY")


async def stop(vm: Vm) -> None:
    await vm.wait_for_console("^READY")
    await kvmctl.stop(vm, grace=20)


async def quit_and_wait(vm: Vm) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(vm.wait())
        group.create_task(vm.quit())


async def execute(vm: Vm) -> None:
    await vm.wait_for_agent()
    with pytest.raises(kvmctl.AgentError):  # it has no command to run commands
        await vm.exec(["true"])


async def attached(vm: Vm) -> None:
    async with kvmctl.attach(vm.name) as other:
        async for event in other.events():
            if event.name == "RESUME":
                break
        await other.status()


@pytest.mark.parametrize("again", [0, 1])
@pytest.mark.parametrize("use", [console, stop, quit_and_wait, execute, attached])
async def test_nothing_is_left_of_a_launch_cancelled_at_any_step(
    roots: Roots, use: Callable[[Vm], Awaitable[object]], again: int
) -> None:
    await launched(use)  # everything is imported, every cache filled
    assert await interrupt_everywhere(lambda: launched(use), roots, again=again) > 10


async def test_a_start_cancelled_at_any_step_leaves_no_machine(roots: Roots) -> None:
    async def start_and_end() -> None:
        try:
            vm = await kvmctl.start(tiny())
        except asyncio.CancelledError:
            assert os.listdir(roots.runtime) == []
            raise
        kvmctl.kill("web")
        kvmctl.remove("web")
        await vm.close()

    await start_and_end()
    assert await interrupt_everywhere(start_and_end, roots, again=0) > 5
