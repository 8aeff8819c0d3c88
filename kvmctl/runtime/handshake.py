"""The second half of a start: QEMU is told to run. Whatever goes wrong, nothing is left of the machine."""

from __future__ import annotations

import asyncio

from kvmctl.runtime.begin import START_SECONDS, Beginning
from kvmctl.runtime.monitor import Monitor


async def let_go(beginning: Beginning) -> Monitor | None:
    """Let a machine run whose QEMU was started.

    Gives the private monitor of one that ends with us, which the caller closes; one that goes on has none: a monitor
    belongs to an event loop, which such a machine and its handle may outlive.
    """
    monitor = None
    try:
        async with asyncio.timeout(START_SECONDS):
            monitor = await Monitor.connect(beginning.child.monitor.dup(), name=beginning.plan.name)
            for step in beginning.plan.before_run:
                await monitor.execute(step.execute, step.arguments)
            beginning.child.widen_backlogs()
            await monitor.execute("cont")
        if not beginning.claim.is_captive:
            await monitor.close()
    except BaseException as error:
        try:
            if monitor is not None:
                await monitor.close()
        finally:
            cause = beginning.fail(error)
        if cause is error:
            raise
        raise cause from error
    beginning.succeed()
    return monitor if beginning.claim.is_captive else None
