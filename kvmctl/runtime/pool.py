"""A pool of forks that are ready before anybody asks for one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Final, Self, TypeAlias

from kvmctl.errors import KvmctlError
from kvmctl.runtime.fork import Fork, Template
from kvmctl.runtime.forking import check_room

_Ready: TypeAlias = "Fork | KvmctlError"

_HEAD_START: Final = 0.01
"""Seconds that whoever has a fork has the event loop for themselves: to start a QEMU for the next keeps it busy for
some milliseconds, in which the first command would not be on its way."""


class Pool:
    """`size` forks of `template`, kept ready while the context lasts; for each that is taken another one is made.

    ::

        async with Pool(template, size=4) as pool, pool.lease() as vm:
            await vm.exec(["true"])
    """

    def __init__(self, template: Template, *, size: int) -> None:
        self._template = template
        self._size = size
        self._ready: asyncio.Queue[_Ready] = asyncio.Queue()
        self._making: set[asyncio.Task[None]] = set()
        self._limit = asyncio.Semaphore(os.cpu_count() or 1)
        self._stack = AsyncExitStack()
        self._waiting = 0

    async def __aenter__(self) -> Self:
        """Begin to make the forks. Raises HostError where there is not the memory for all, StateError for the space."""
        check_room(self._template.record.plan, self._template.roots, count=self._size)
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        for _ in range(self._size):
            self._make_another()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._making:
            task.cancel()
        try:
            await self._stack.aclose()  # not told of `error`: the group would wrap it in one of its own
        finally:
            while not self._ready.empty():
                await _dispose(self._ready.get_nowait())

    @property
    def ready(self) -> int:
        """How many forks could be leased without waiting."""
        return self._ready.qsize()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Fork]:
        """A fork, ready or about to be, for as long as the context lasts. Raises what `Template.fork` raises."""
        fork = await self._take()
        try:
            yield fork
        finally:
            await fork.dispose()

    async def _take(self) -> Fork:
        while True:
            self._waiting += 1
            try:
                found = await self._ready.get()
            finally:
                self._waiting -= 1
            self._make_another(delay=0 if self._waiting else _HEAD_START)
            if isinstance(found, KvmctlError):
                raise found
            if found.is_alive:
                return found
            await found.dispose()

    def _make_another(self, *, delay: float = 0) -> None:
        task = self._group.create_task(self._make(delay))
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _make(self, delay: float) -> None:
        await asyncio.sleep(delay)
        async with self._limit:
            try:
                found: _Ready = await self._template.fork()
            except KvmctlError as error:  # it is whoever asks for a fork that wants to know
                found = error
        self._ready.put_nowait(found)


async def _dispose(found: _Ready) -> None:
    if isinstance(found, Fork):
        await found.dispose()
