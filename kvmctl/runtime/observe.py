"""Waiting for what a machine does: its end, its events, its console. Woken by the kernel, never by a clock."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TypeVar

from kvmctl.errors import KvmctlError, NotRunning
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import files
from kvmctl.runtime.events import Event, derive, parse_lines
from kvmctl.runtime.journal import Tail
from kvmctl.runtime.process import Process
from kvmctl.runtime.watch import Watch

_CONSOLE_TAIL = 2000

T = TypeVar("T")


async def wait_readable(*descriptors: int) -> None:
    """Wait until one of `descriptors` is readable; they may be waited on by others too, and closed by them."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    copies = [os.dup(descriptor) for descriptor in descriptors]  # an event loop takes one reader a descriptor
    for copy in copies:
        loop.add_reader(copy, _wake, ready)
    try:
        await ready
    finally:
        for copy in copies:
            loop.remove_reader(copy)
            os.close(copy)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def wait_ended(process: Process, *, seconds: float | None = None) -> bool:
    """Whether `process` ends within `seconds` (None: however long it takes)."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wait_readable(process.pidfd)
    return process.wait(0)


async def changes(paths: MachinePaths, process: Process) -> AsyncIterator[None]:
    """Now, then whenever a file of the run directory changes, and a last time when the machine has ended."""
    with Watch(paths) as watch:
        while True:
            has_ended = process.wait(0)  # looked at before the caller reads: nothing is written after the end
            yield
            if has_ended:
                return
            await wait_readable(watch.fileno(), process.pidfd)
            watch.drain()


async def follow_events(paths: MachinePaths, process: Process) -> AsyncIterator[Event]:
    """Every event of this run: those that were, then each as it comes, until the machine ends."""
    tail = Tail(paths.journal)
    async for _ in changes(paths, process):
        for event in parse_lines(tail.lines()):
            yield event


async def follow_console(paths: MachinePaths, process: Process, *, offset: int) -> AsyncIterator[bytes]:
    """What the first console prints from byte `offset` on, as it comes, until the machine ends."""
    tail = Tail(paths.console_log, offset=offset)
    async for _ in changes(paths, process):
        yield tail.read()


async def wait_for_event(paths: MachinePaths, process: Process, name: str) -> Event:
    """The first event `name` from now on. Raises NotRunning where the machine ends before it."""
    tail = Tail(paths.journal)
    tail.lines()

    def find() -> Event | None:
        return next((event for event in parse_lines(tail.lines()) if event.name == name), None)

    return await _until(paths, process, find, f"the event {name!r}")


async def wait_for_console(paths: MachinePaths, process: Process, pattern: str) -> str:
    """The console's first line in which the regular expression `pattern` is found, printed before now or after.

    Raises NotRunning where the machine ends without it, KvmctlError where `pattern` is no regular expression.
    """
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise KvmctlError(f"{pattern!r} is not a regular expression: {error}") from error
    tail = Tail(paths.console_log)
    text = ""

    def find() -> str | None:
        nonlocal text
        text += tail.read().decode(errors="replace").replace("\r", "")
        *whole, rest = text.split("\n")
        found = next((line for line in (*whole, rest) if search.search(line)), None)
        text = rest
        return found

    return await _until(paths, process, find, f"{pattern!r} on the console")


async def wait_for_agent_channel(paths: MachinePaths, process: Process) -> None:
    """Wait until the guest has opened the agent's virtio port. Raises NotRunning where the machine ends before it."""
    tail = Tail(paths.journal)
    seen: list[Event] = []

    def find() -> bool | None:
        seen.extend(parse_lines(tail.lines()))
        return derive(seen).agent_open or None

    await _until(paths, process, find, "the guest agent's first sign of life")


async def _until(paths: MachinePaths, process: Process, find: Callable[[], T | None], what: str) -> T:
    async for _ in changes(paths, process):
        found = find()
        if found is not None:
            return found
    raise NotRunning(
        f"machine {paths.name!r} ended before {what}",
        detail=files.read_tail(paths.console_log, limit=_CONSOLE_TAIL),
    )
