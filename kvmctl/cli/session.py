"""The one place where the command line enters asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from signal import SIG_IGN, SIGHUP, SIGTERM, Signals, getsignal
from typing import TYPE_CHECKING, Any, TypeVar

import kvmctl
from kvmctl import DeadlineExceeded

if TYPE_CHECKING:
    from kvmctl import Vm

T = TypeVar("T")


class TimeIsUp(DeadlineExceeded):
    """The time that was given on the command line is over."""


def run(
    work: Coroutine[Any, Any, T],
    *,
    timeout: float | None = None,
    doing: str = "",
    hint: str = "",
    evidence: object = "",
) -> T:
    """Do `work` to its end.

    Raises TimeIsUp after `timeout` seconds, naming what it was `doing`, with `hint`, and `evidence` as it then reads.
    """
    # A door: asyncio takes 30 ms to import, and `stop --force`, which never gets here, twice that in all.
    asyncio = import_module("asyncio")
    try:
        result: T = asyncio.run(
            _until_signal(asyncio, asyncio.wait_for(work, timeout) if timeout is not None else work)
        )
    except _Signalled as error:
        raise SystemExit(128 + error.number) from None
    except TimeoutError:
        if timeout is None:
            raise
        raise TimeIsUp(f"gave up after {timeout:g} s: {doing}", detail=str(evidence), hint=hint) from None
    return result


class _Signalled(Exception):
    """A signal asked us to end."""

    def __init__(self, number: Signals) -> None:
        self.number = number


async def _until_signal(asyncio: Any, work: Awaitable[T]) -> T:
    """Do `work`, which SIGTERM and SIGHUP cancel as Ctrl-C does, so that it clears away: a command in a guest, say."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    seen: list[Signals] = []

    def cancel(number: Signals) -> None:
        seen.append(number)
        task.cancel()

    for number in (SIGTERM, SIGHUP):
        if getsignal(number) is not SIG_IGN:  # as nohup has it
            loop.add_signal_handler(number, cancel, number)
    try:
        return await work
    except asyncio.CancelledError:
        if seen:
            raise _Signalled(seen[0]) from None
        raise


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
