"""Holding on to a machine: its process, its journal and the ways to its monitor, until one of us ends."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from kvmctl.errors import KvmctlError
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import end, history, observe, ops, store
from kvmctl.runtime.events import EXIT, Exit
from kvmctl.runtime.journal import Journal
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.monitors import Monitors
from kvmctl.runtime.process import Process
from kvmctl.runtime.spawn import Child
from kvmctl.runtime.store import Claim

if TYPE_CHECKING:
    from kvmctl.runtime.again import Again

DEADLINE: Final = 10.0
"""Seconds QEMU has to answer, unless the caller says otherwise."""
ASK_SECONDS: Final = 2.0
"""Seconds an answer may take where there is another way to go on without it."""


class Handle:
    """A machine in the hand: whether it lives, how it ended, and the ends it can be put to."""

    def __init__(
        self,
        plan: Plan,
        paths: MachinePaths,
        process: Process,
        journal: Journal,
        *,
        monitor: Monitor | None = None,
        child: Child | None = None,
        claim: Claim | None = None,
    ) -> None:
        self.plan = plan
        self.paths = paths
        self.deadline = DEADLINE
        """Seconds QEMU has to answer."""
        self._process = process
        self._journal = journal
        self._monitors = Monitors(paths, process, monitor)
        self._child = child
        self._claim = claim
        self._owner = os.getpid()
        self._exit: Exit | None = None

    def __repr__(self) -> str:
        if self._process.has_ended or self._process.pidfd >= 0:
            return (
                f"<{type(self).__name__} {self.name!r} {'running' if self.is_alive else 'ended'}, process {self.pid}>"
            )
        return f"<{type(self).__name__} {self.name!r} closed>"

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.plan.name

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def spawned(self) -> float | None:
        """When we started QEMU, in seconds since the epoch; None where somebody else did."""
        return None if self._child is None else self._child.spawned

    @property
    def is_alive(self) -> bool:
        """Whether QEMU runs."""
        return not self._process.wait(0)

    def monitor(self, *, deadline: float | None = None) -> AbstractAsyncContextManager[Monitor]:
        """The monitor, for one exchange: the private one of a machine we launched, else a turn at the public one."""
        return self._monitors.turn(deadline=self.deadline if deadline is None else deadline)

    def signal(self, number: Signals) -> None:
        """Send QEMU the signal `number`; nothing to do where it has ended."""
        self._process.signal(number)

    async def wait(self) -> Exit:
        """Wait for the machine to end, and say how it did. Known for good once it has."""
        await observe.wait_ended(self._process)
        return self._settle()

    async def ended_within(self, seconds: float) -> bool:
        """Whether the machine ends within `seconds`."""
        return await observe.wait_ended(self._process, seconds=seconds)

    async def quit(self) -> Exit:
        """End QEMU, its disks flushed, its guest not asked; by SIGTERM where the monitor is taken, by SIGKILL at last.

        Raises DeadlineExceeded where not even that helps.
        """
        try:
            async with self.monitor(deadline=ASK_SECONDS) as monitor:
                await ops.quit_qemu(monitor)
        except KvmctlError:
            self._process.signal(SIGTERM)
        return self._settle() if await self.ended_within(end.TERM_SECONDS) else await self.kill()

    async def kill(self) -> Exit:
        """A power cut: SIGKILL. Raises DeadlineExceeded where QEMU hangs in the kernel."""
        if not self._process.wait(0):
            end.send_kill(self._process, self._journal, by="kill")
            end.check_killed(self.paths, self._process, has_ended=await self.ended_within(end.KILL_SECONDS))
        return self._settle()

    async def start(self) -> None:
        """Boot it again when it has ended, after `kill` or by itself: power comes back, and its memory is lost.

        From the disks and UEFI variables that it had, those that were made for this run included. What it is called
        and reached by stays; ports of the host that QEMU chose are chosen anew. It ends with this process if it did
        before. Where that goes wrong, nothing is left of a machine that is not kept from run to run, and of one that is
        what was there before.

        Raises AlreadyRunning where it runs, NotRunning where nothing is left to start; of a fork, NotFound,
        TemplateMisfit and TemplateDamaged where its template is not what it was; and what starting a machine raises.
        """
        if not self._process.wait(0):
            raise store.already_running(self.paths)
        self._settle()
        await self._monitors.close()  # nothing is waited for any more once there is another QEMU to look after
        # Seldom needed, and half of what starting takes to import.
        again: Again = await import_module("kvmctl.runtime.again").boot_again(self.plan, self.paths, self._claim)
        self._process.close()
        self._journal.close()
        self.plan, self.paths, self._claim = again.beginning.plan, again.beginning.paths, again.beginning.claim
        self._child, self._journal, self._exit = again.beginning.child, again.journal, None
        self._process = self._child.process
        self._monitors = Monitors(self.paths, self._process, again.monitor)

    def _settle(self) -> Exit:
        """Collect the process if it was ours, note its exit status, and read how it ended."""
        if self._exit is None:
            status = self._child.reap() if self._child is not None else None
            if status is not None:
                self._journal.note(EXIT, {"status": status})
            self._exit = history.find_exit(self.paths, self._journal)
            self._end_helpers()
        return self._exit

    def _end_helpers(self) -> None:
        if self.plan.helpers:
            store.end_helpers(self.paths)
        if self._child is not None:
            self._child.end_helpers()

    async def close(self) -> None:
        """Let go of the machine, which runs on. Does nothing to one that `launch` runs: its context ends that."""
        if self._claim is None or not self._claim.is_captive:
            await self._release()

    async def _release(self) -> None:
        try:
            await self._monitors.close()
        finally:
            if self._child is not None and self._process.pidfd >= 0:
                if self.is_alive:
                    self._child.disown()
                else:
                    self._settle()
            self._process.close()
            self._journal.close()

    async def dispose(self) -> None:
        """End a machine that ends with us, and leave nothing of it. To be cancelled meanwhile pulls its plug."""
        if self._owner != os.getpid():
            return  # a fork of the process whose machine it is
        try:
            if self.is_alive:
                await self.quit()
        finally:
            try:
                self._process.signal(SIGKILL)
                self._process.wait(end.KILL_SECONDS)
                await self._release()
            finally:
                if self._claim is not None:
                    self._claim.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
