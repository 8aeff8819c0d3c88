"""A task beside a piece of work, for as long as that takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(task: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do `task` while the context lasts, and no longer; what fails first of both is raised, and ends the other."""
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(task)
            yield
            running.cancel()
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__
