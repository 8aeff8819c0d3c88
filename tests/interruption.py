"""Cancelling at a chosen step, so that a test can try them all."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

Work = Callable[[], Coroutine[Any, Any, object]]


class Interruption:
    """Cancels a task when the tasks of its event loop have, all together, paused `step` times, and again later."""

    def __init__(self, step: int, *, again: int = 0) -> None:
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
