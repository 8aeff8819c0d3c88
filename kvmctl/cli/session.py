"""The one place where the command line enters asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import kvmctl

if TYPE_CHECKING:
    from kvmctl import Vm

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Do `work` to its end."""
    # A door: asyncio takes 30 ms to import, and `stop --force`, which never gets here, twice that in all.
    result: T = import_module("asyncio").run(work)
    return result


def on_machine(name: str, operation: Callable[[Vm], Awaitable[T]]) -> T:
    """The result of `operation` on the running machine `name`. Raises NotFound, NotRunning."""

    async def work() -> T:
        async with kvmctl.attach(name) as vm:
            return await operation(vm)

    return run(work())
