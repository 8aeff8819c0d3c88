"""Waiting for what a machine does: its end, its events, its console. Woken by the kernel, never by a clock."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import ExitStack, aclosing, suppress
from typing import Any, TypeVar

from kvmctl import files
from kvmctl.errors import KvmctlError, NotRunning
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.events import EXIT, Event, derive, parse_lines
from kvmctl.runtime.journal import Tail
from kvmctl.runtime.process import Process
from kvmctl.runtime.watch import Watch

_CONSOLE_TAIL = 2000
_LINE_MAX = 1 << 16
"""Characters of an unfinished line that a pattern is looked for in: a guest need not ever end one."""

T = TypeVar("T")


async def wait_readable(*descriptors: int) -> None:
    """Wait until one of `descriptors` is readable; they may be waited on by others too, and closed by them."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    with ExitStack() as stack:
        for descriptor in descriptors:
            copy = os.dup(descriptor)  # an event loop takes one reader a descriptor
            stack.callback(os.close, copy)
            loop.add_reader(copy, _wake, ready)
            stack.callback(loop.remove_reader, copy)
        await ready


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def wait_ended(process: Process, *, seconds: float | None = None) -> bool:
    """Whether `process` ends within `seconds` (None: however long it takes)."""
    if process.wait(0):
        return True
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wait_readable(process.pidfd)
    return process.wait(0)


async def changes(path: str, process: Process) -> AsyncGenerator[None, None]:
    """Now, then whenever the file at `path` is written to, and a last time when the machine has ended."""
    with Watch(path) as watch:
        while True:
            has_ended = process.wait(0)  # looked at before the caller reads: nothing is written after the end
            yield
            if has_ended:
                return
            await wait_readable(watch.fileno(), process.pidfd)
            watch.drain()


async def follow_events(paths: MachinePaths, process: Process) -> AsyncGenerator[Event, None]:
    """Every event of this run: those that were, then each as it comes, until the machine ends.

    The launcher's note of the exit status comes after that, soon enough to be seen or not: so it never is.
    """
    with Tail(paths.journal) as tail:
        async with aclosing(changes(paths.journal, process)) as ticks:
            async for _ in ticks:
                for event in parse_lines(tail.lines()):
                    if event.name != EXIT:
                        yield event


async def follow_console(paths: MachinePaths, process: Process, *, offset: int) -> AsyncGenerator[bytes, None]:
    """What the first console prints from byte `offset` on, as it comes, until the machine ends."""
    with Tail(paths.console_log, offset=offset) as tail:
        async with aclosing(changes(paths.console_log, process)) as ticks:
            async for _ in ticks:
                for piece in tail.pieces():
                    yield piece


def wait_for_event(paths: MachinePaths, process: Process, name: str) -> Coroutine[Any, Any, Event]:
    """The first event `name` after this call, whenever it is awaited.

    Raises NotRunning where the machine ends before it.
    """
    tail = Tail(paths.journal)
    tail.lines()

    def find() -> Event | None:
        return next((event for event in parse_lines(tail.lines()) if event.name == name), None)

    async def wait() -> Event:
        with tail:
            return await _until(paths, paths.journal, process, find, f"the event {name!r}")

    return wait()


async def wait_for_console(paths: MachinePaths, process: Process, pattern: str) -> str:
    """The console's first line in which the regular expression `pattern` is found, printed before now or after.

    Raises NotRunning where the machine ends without it, KvmctlError where `pattern` is no regular expression.
    """
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise KvmctlError(f"{pattern!r} is not a regular expression: {error}") from error
    with Tail(paths.console_log) as tail:
        lines = _Lines()

        def find() -> str | None:
            found = (line for piece in tail.pieces() for line in lines.feed(piece) if search.search(line))
            return next(found, None)

        return await _until(paths, paths.console_log, process, find, f"{pattern!r} on the console")


class _Lines:
    """Text that comes in pieces cut anywhere, as lines; the last one is shown again whenever it has grown."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest = ""

    def feed(self, piece: bytes) -> list[str]:
        lines = (self._rest + self._decode(piece).replace("\r", "")).split("\n")
        self._rest = lines[-1][-_LINE_MAX:]
        return lines


async def wait_for_agent_channel(paths: MachinePaths, process: Process) -> None:
    """Wait until the guest has opened the agent's virtio port. Raises NotRunning where the machine ends before it."""
    with Tail(paths.journal) as tail:
        seen: list[Event] = []

        def find() -> bool | None:
            seen.extend(parse_lines(tail.lines()))
            return derive(seen).agent_open or None

        await _until(paths, paths.journal, process, find, "the guest agent's first sign of life")


async def _until(paths: MachinePaths, path: str, process: Process, find: Callable[[], T | None], what: str) -> T:
    async with aclosing(changes(path, process)) as ticks:
        async for _ in ticks:
            found = find()
            if found is not None:
                return found
    raise NotRunning(
        f"machine {paths.name!r} ended before {what}",
        detail=files.read_tail(paths.console_log, limit=_CONSOLE_TAIL),
    )
