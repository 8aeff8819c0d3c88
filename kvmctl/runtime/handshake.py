"""The second half of a start: QEMU is told to run. Whatever goes wrong, nothing is left of the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TypeAlias

from kvmctl.errors import LaunchFailed, MonitorLost, QmpError
from kvmctl.plan.model import QmpStep
from kvmctl.runtime.begin import START_SECONDS, Beginning
from kvmctl.runtime.journal import Journal
from kvmctl.runtime.monitor import Monitor

Wait: TypeAlias = Callable[[], Awaitable[None]]
"""Waits for something, and raises where it can't come any more."""


async def _nothing() -> None:
    pass


async def let_go(beginning: Beginning) -> tuple[Journal, Monitor | None]:
    """Let a machine run whose QEMU was started; its journal, which the caller closes.

    And the private monitor of one that ends with us, which the caller closes too; one that goes on has none: a monitor
    belongs to an event loop, which such a machine and its handle may outlive.
    """
    with ExitStack() as stack:
        try:
            journal = stack.enter_context(Journal(beginning.paths))
        except BaseException as error:
            beginning.fail(error)
            raise
        monitor = await bring_up(beginning)
        beginning.succeed()
        stack.pop_all()
    return journal, monitor


async def bring_up(
    beginning: Beginning,
    *,
    on_greeting: Callable[[], None] = lambda: None,
    before: Wait = _nothing,
    after: Wait = _nothing,
) -> Monitor | None:
    """Let a machine run, with the caller to say when it has succeeded: nobody depends on it before; see `let_go`.

    `before` is waited for before its CPUs run, `after` when they do.
    """
    monitor = None
    try:
        async with asyncio.timeout(START_SECONDS):
            monitor = await Monitor.connect(beginning.child.monitor.dup(), name=beginning.plan.name)
            on_greeting()
            # One after the other for QEMU, which reads byte by byte: it has the next one when it has done the last.
            await asyncio.gather(
                *(
                    monitor.execute(step.execute, step.numbered(beginning.child.numbers))
                    for step in beginning.plan.before_run
                )
            )
            beginning.child.widen_backlogs()
            await before()
            await monitor.execute("cont")
            await after()
            for step in beginning.plan.after_renewal:
                await _plug(monitor, step, beginning)
        if not beginning.claim.is_captive:
            await monitor.close()
    except BaseException as error:
        try:
            cause = beginning.fail(error)  # first: whether QEMU has hung up is not to be told once we have
        finally:
            if monitor is not None:
                await monitor.close()
        if cause is error:
            raise
        raise cause from error
    return monitor if beginning.claim.is_captive else None


async def _plug(monitor: Monitor, step: QmpStep, beginning: Beginning) -> None:
    """Carry out a step that gives a fork what it was frozen without. Raises LaunchFailed, MonitorLost."""
    try:
        await monitor.execute(step.execute, step.numbered(beginning.child.numbers))
    except MonitorLost:
        raise
    except QmpError as error:
        name, part = beginning.plan.name, step.arguments["id"]
        raise LaunchFailed(
            f"{step.why}: QEMU can't plug {part!r} into {name!r}: {error.summary}",
            hint="Its template was made without it, and something else may be in its place.",
        ) from error
