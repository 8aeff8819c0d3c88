"""Being cancelled at every step of a launch, a stop, a wait or a command, once and twice: nothing may be left of it."""

from __future__ import annotations

import asyncio
import os
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from itertools import count
from typing import Any

import pytest

import kvmctl
from kvmctl import Roots, Vm

from .conftest import end_all, tiny

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

Work = Callable[[], Coroutine[Any, Any, object]]


class Interruption:
    """Cancels a task when the tasks of its event loop have, all together, paused `step` times, and again later."""

    def __init__(self, step: int, *, again: int) -> None:
        self._when = {step, step + again}
        self._target: asyncio.Task[object] | None = None
        self.steps = 0

    async def run(self, work: Work) -> None:
        """Do `work`, interrupted; that it was cancelled is no error, all else is."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **more: asyncio.Task(self._counted(coroutine), loop=loop, **more))
        try:
            self._target = loop.create_task(work())
            await asyncio.wait([self._target])
        finally:
            loop.set_task_factory(None)
        if not self._target.cancelled():
            self._target.result()

    async def _counted(self, coroutine: Coroutine[Any, Any, object]) -> object:
        return await self._drive(coroutine)

    @types.coroutine
    def _drive(self, coroutine: Coroutine[Any, Any, object]) -> Generator[Any, Any, object]:
        advance = partial(coroutine.send, None)
        while True:
            try:
                paused_for = advance()
            except StopIteration as stop:
                return stop.value
            self.steps += 1
            if self.steps in self._when and self._target is not None:
                self._target.cancel()
            try:
                advance = partial(coroutine.send, (yield paused_for))
            except BaseException as error:  # noqa: BLE001  # whatever it is, it is for the coroutine
                advance = partial(coroutine.throw, error)


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
