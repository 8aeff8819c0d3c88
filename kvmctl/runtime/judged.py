"""A machine in the hand whose errors say what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final, TypeVar

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError, NotRunning, Unreachable, WaitFailed
from kvmctl.runtime import deferred
from kvmctl.runtime.handle import Handle
from kvmctl.verdict import Verdict

T = TypeVar("T")

_OF_WAITS: Final = (AgentError, DeadlineExceeded, NotRunning, Unreachable, WaitFailed)
"""What waiting for a machine, or for its guest, ends in."""


class Judged(Handle):
    """A machine in the hand, and what became of it. See `Vm`."""

    def verdict(self) -> Verdict:
        """What became of the machine, or becomes of it, as its console, its journal and QEMU's log tell by now.

        Raises StateError where these can't be read.
        """
        end = None if self.is_alive else self._settle()
        return deferred.diagnose(self.plan, self.paths, self._journal.events(), end=end)

    @asynccontextmanager
    async def within(self, seconds: float | None, doing: str, *, seen: object = "") -> AsyncIterator[None]:
        """Give what is done in this context `seconds`; DeadlineExceeded, with a verdict, says that it was not enough.

        With None it may take as long as it likes. `seen`, as it then reads, is what the error tells besides.

        ::

            async with vm.within(60, "wait for the guest's agent"):
                await vm.wait_for_agent()
        """
        try:
            async with asyncio.timeout(seconds) as timer:
                yield
        except TimeoutError:
            if not timer.expired():
                raise
            with self.judged():
                summary = f"machine {self.name!r}: gave up after {seconds or 0:g} s: {doing}"
                raise DeadlineExceeded(summary, detail=str(seen)) from None

    @contextmanager
    def judged(self) -> Iterator[None]:
        """An error that ends a wait in this context says what became of the machine."""
        try:
            yield
        except _OF_WAITS as error:
            with suppress(KvmctlError):  # what became of it can't be found out, and the error itself matters more
                error.verdict = error.verdict or self.verdict()
            raise

    async def _wait_judged(self, wait: Awaitable[T]) -> T:
        with self.judged():
            return await wait
