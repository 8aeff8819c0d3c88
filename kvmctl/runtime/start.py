"""A plan becomes a running machine: one that goes on without us, or one that ends with us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvmctl.errors import DeadlineExceeded
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.begin import Beginning, begin
from kvmctl.runtime.journal import Journal
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.vm import Vm

START_SECONDS = 60.0
"""How long QEMU may take from its start to its first instruction: it may have to touch a lot of memory first."""


async def start_plan(plan: Plan, paths: MachinePaths) -> Vm:
    """Start the machine; it goes on when this process ends. Raises AlreadyRunning, LaunchFailed and many more."""
    return await let_go(begin(plan, paths, is_captive=False))


@asynccontextmanager
async def run_plan(plan: Plan, paths: MachinePaths) -> AsyncIterator[Vm]:
    """Run the machine for as long as the context lasts, and leave nothing of it.

    It ends with this process whatever ends that, SIGKILL included.
    """
    vm = await let_go(begin(plan, paths, is_captive=True))
    try:
        yield vm
    finally:
        await vm.dispose()


async def let_go(beginning: Beginning) -> Vm:
    """Let a machine run whose QEMU was started. Whatever goes wrong, nothing is left of it."""
    plan, child = beginning.plan, beginning.child
    monitor = None
    try:
        async with asyncio.timeout(START_SECONDS):
            monitor = await Monitor.connect(child.monitor.dup(), name=plan.name)
            for step in plan.before_run:
                await monitor.execute(step.execute, step.arguments)
            child.widen_backlogs()
            await monitor.execute("cont")
        if not beginning.claim.is_captive:
            await monitor.close()  # it belongs to this event loop, which the machine and its handle may outlive
        journal = Journal(beginning.paths)
    except BaseException as error:
        try:
            if monitor is not None:
                await monitor.close()
        finally:
            cause = beginning.fail(_timely(error, plan.name))
        if cause is error:
            raise
        raise cause from error
    beginning.succeed()
    return Vm(plan, beginning.paths, child.process, journal, monitor=monitor, child=child, claim=beginning.claim)


def _timely(error: BaseException, name: str) -> BaseException:
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"QEMU of {name!r} did not come up within {START_SECONDS:g} s")
    return error
