"""A plan becomes a running machine: one that goes on without us, or one that ends with us."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.begin import Beginning, begin
from kvmctl.runtime.handshake import let_go
from kvmctl.runtime.vm import Vm


async def start_plan(plan: Plan, paths: MachinePaths, *, is_defined: bool = False) -> Vm:
    """Start the machine; it goes on when this process ends. Raises AlreadyRunning, LaunchFailed and many more."""
    return await _vm(begin(plan, paths, is_captive=False, is_defined=is_defined))


@asynccontextmanager
async def run_plan(plan: Plan, paths: MachinePaths) -> AsyncIterator[Vm]:
    """Run the machine for as long as the context lasts, and leave nothing of it.

    It ends with this process whatever ends that, SIGKILL included.
    """
    vm = await _vm(begin(plan, paths, is_captive=True))
    try:
        yield vm
    finally:
        await vm.dispose()


async def _vm(beginning: Beginning) -> Vm:
    journal, monitor = await let_go(beginning)
    child = beginning.child
    return Vm(
        beginning.plan, beginning.paths, child.process, journal, monitor=monitor, child=child, claim=beginning.claim
    )
