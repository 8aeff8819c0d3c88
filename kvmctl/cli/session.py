"""The one place where the command line enters asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import kvmctl
from kvmctl import DeadlineExceeded

if TYPE_CHECKING:
    from kvmctl import Vm

T = TypeVar("T")


class TimeIsUp(DeadlineExceeded):
    """The time that was given on the command line is over."""


def run(work: Coroutine[Any, Any, T], *, timeout: float | None = None, doing: str = "", hint: str = "") -> T:
    """Do `work` to its end. Raises TimeIsUp after `timeout` seconds, naming what it was `doing`, with `hint`."""
    # A door: asyncio takes 30 ms to import, and `stop --force`, which never gets here, twice that in all.
    asyncio = import_module("asyncio")
    try:
        result: T = asyncio.run(asyncio.wait_for(work, timeout) if timeout is not None else work)
    except TimeoutError:
        if timeout is None:
            raise
        raise TimeIsUp(f"gave up after {timeout:g} s: {doing}", hint=hint) from None
    return result


def on_machine(
    name: str,
    operation: Callable[[Vm], Awaitable[T]],
    *,
    timeout: float | None = None,
    doing: str = "",
    hint: str = "",
) -> T:
    """The result of `operation` on the running machine `name`; see `run`. Raises NotFound, NotRunning."""

    async def work() -> T:
        async with kvmctl.attach(name) as vm:
            return await operation(vm)

    return run(work(), timeout=timeout, doing=doing, hint=hint)
