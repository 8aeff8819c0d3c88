"""The ways to a machine's monitor, and what it means when there is no getting through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kvmctl.errors import DeadlineExceeded, MonitorBusy, MonitorLost, NotRunning
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import deferred, observe
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.process import Process
from kvmctl.runtime.sockets import connect_unix

_LAST_SECONDS = 1.0
"""Seconds from the moment QEMU closes its sockets to its end, at most: it is about to end, or something is wrong."""


@dataclass(slots=True)
class Monitors:
    """The private monitor of a machine that we launched, and a turn at the public one of any."""

    paths: MachinePaths
    process: Process
    private: Monitor | None = None

    @asynccontextmanager
    async def turn(self, *, deadline: float) -> AsyncIterator[Monitor]:
        """A monitor for one exchange of at most `deadline` seconds: the private one where it is to be had.

        Raises DeadlineExceeded, MonitorBusy, MonitorLost, NotRunning.
        """
        try:
            async with asyncio.timeout(deadline) as timer:
                if self.private is not None and self.private.is_open:
                    yield self.private
                else:
                    async with await self._connect() as monitor:
                        yield monitor
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise await self._unanswered(deadline) from error
        except MonitorLost as error:
            if await self.is_ending():
                raise NotRunning(f"machine {self.paths.name!r} has ended", detail=error.summary) from error
            raise

    async def is_ending(self) -> bool:
        """Whether QEMU has ended, or does at this moment: its sockets are closed a little before."""
        return await observe.wait_ended(self.process, seconds=_LAST_SECONDS)

    async def close(self) -> None:
        """Hang up the private monitor."""
        private, self.private = self.private, None
        if private is not None:
            await private.close()

    async def _connect(self) -> Monitor:
        name = self.paths.name
        try:
            connection = connect_unix(self.paths.qmp)
        except BlockingIOError as error:
            raise MonitorBusy(f"too many clients wait for the monitor of {name!r}") from error
        except OSError as error:
            raise MonitorLost(f"machine {name!r} does not answer: {error.strerror}") from error
        return await Monitor.connect(connection, name=name)

    async def _unanswered(self, limit: float) -> DeadlineExceeded | MonitorBusy:
        name = self.paths.name
        # pyroute2 runs an event loop of its own, which can't be within ours: hence the thread.
        holder = None if self.private else await asyncio.to_thread(deferred.find_client, self.paths.qmp)
        if holder is not None:
            return MonitorBusy(
                f"the monitor of {name!r} is held by process {holder}",
                detail=f"it did not let go within {limit:g} s",
                hint=f"QEMU serves one monitor client at a time; end process {holder} or wait for it.",
                holder=holder,
            )
        pid = self.process.pid
        stopped = " (it is stopped: SIGCONT would wake it)" if deferred.is_stopped(pid) else ""
        return DeadlineExceeded(
            f"QEMU of {name!r} did not answer within {limit:g} s",
            detail=f"process {pid}{stopped}",
            hint=f"If it hangs for good: kvmctl kill {name}",
        )
