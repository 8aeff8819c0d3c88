"""Getting a `Vm`: start one that goes on without us, launch one that ends with us, attach to one that runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvmctl.errors import DeadlineExceeded, StateError
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import end, files
from kvmctl.runtime.begin import Beginning, begin
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.vm import Vm

START_SECONDS = 60.0
"""How long QEMU may take from its start to its first instruction: it may have to touch a lot of memory first."""


async def start(plan: Plan, paths: MachinePaths) -> Vm:
    """Start the machine; it goes on when this process ends. Raises AlreadyRunning, LaunchFailed and many more."""
    return await let_go(begin(plan, paths, is_captive=False))


@asynccontextmanager
async def launch(plan: Plan, paths: MachinePaths) -> AsyncIterator[Vm]:
    """Run the machine for as long as the context lasts, and leave nothing of it.

    It ends with this process whatever ends that, SIGKILL included.
    """
    vm = await let_go(begin(plan, paths, is_captive=True))
    try:
        yield vm
    finally:
        try:
            if vm.is_alive:
                await vm.quit()
        finally:
            await vm.close()
            vm.forget()


def attach(name: str, *, roots: Roots | None = None) -> Vm:
    """The running machine `name`. Raises NotFound, NotRunning, StateError where its plan can't be read."""
    paths, process = end.find_running(name, roots)
    try:
        return Vm(read_plan(paths), paths, process)
    except BaseException:
        process.close()
        raise


async def let_go(beginning: Beginning) -> Vm:
    """Let a machine run whose QEMU was started. Whatever goes wrong, nothing is left of it."""
    monitor = None
    try:
        async with asyncio.timeout(START_SECONDS):
            monitor = await Monitor.connect(beginning.child.monitor.dup(), name=beginning.plan.name)
            for step in beginning.plan.before_run:
                await monitor.execute(step.execute, step.arguments)
            await monitor.execute("cont")
    except BaseException as error:
        if monitor is not None:
            await monitor.close()
        raise beginning.fail(_timely(error, beginning.plan.name)) from error
    beginning.succeed()
    return Vm(
        beginning.plan,
        beginning.paths,
        beginning.child.process,
        monitor=monitor,
        child=beginning.child,
        claim=beginning.claim,
    )


def read_plan(paths: MachinePaths) -> Plan:
    """The plan that the machine's present or last run was started from. Raises StateError."""
    try:
        with open(paths.plan, encoding="utf-8") as file:
            return Plan.loads(file.read())
    except OSError as error:
        raise files.cannot("read", paths.plan, error) from error
    except ValueError as error:
        raise StateError(
            f"{paths.plan!r} is not a plan this kvmctl understands",
            detail=str(error),
            hint=f"It may be of another version: end the machine with kvmctl kill {paths.name}",
        ) from error


def _timely(error: BaseException, name: str) -> BaseException:
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"QEMU of {name!r} did not come up within {START_SECONDS:g} s")
    return error
