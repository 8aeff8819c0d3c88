"""A running machine in the hand."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from signal import SIGTERM
from types import TracebackType
from typing import Any, Self

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError, MonitorBusy, MonitorLost, NotRunning, StateError
from kvmctl.guest.agent import Agent
from kvmctl.guest.run import ExecResult, OnOutput, run
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import deferred, end, files, history, journal, observe, ops
from kvmctl.runtime.events import EXIT, Event, Exit, State
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.process import Process
from kvmctl.runtime.sockets import connect_unix
from kvmctl.runtime.spawn import Child
from kvmctl.runtime.store import Claim

DEADLINE = 10.0
"""Seconds QEMU has to answer, unless the caller says otherwise."""
_ASK_SECONDS = 2.0
"""Seconds a monitor has to take the command to quit, before QEMU is told by a signal."""
_PAGE = 4096
"""Bytes that a balloon takes at once."""


@dataclass(frozen=True, slots=True)
class Status:
    """What QEMU says of itself."""

    state: State
    qemu: str
    """Its version."""
    vnc: str | None
    forwards: tuple[str, ...]
    """Port forwards, with the ports that QEMU chose."""


class Vm:
    """A machine that runs, or ran until a moment ago. Made by `launch`, `start` and `attach`.

    Each operation has `deadline` seconds and raises DeadlineExceeded after that, MonitorBusy where another client holds
    the monitor, NotRunning where the machine has ended.
    """

    def __init__(
        self,
        plan: Plan,
        paths: MachinePaths,
        process: Process,
        *,
        monitor: Monitor | None = None,
        child: Child | None = None,
        claim: Claim | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        self.plan = plan
        self.paths = paths
        self.deadline = deadline
        self._process = process
        self._monitor = monitor
        self._child = child
        self._claim = claim
        self._exit: Exit | None = None

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.plan.name

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether QEMU runs."""
        return not self._process.wait(0)

    # -- the monitor ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def monitor(self, *, deadline: float | None = None) -> AsyncIterator[Monitor]:
        """The monitor, for one exchange: the private one of a machine we launched, else a turn at the public one."""
        limit = self.deadline if deadline is None else deadline
        try:
            async with asyncio.timeout(limit) as timer:
                if self._monitor is not None:
                    yield self._monitor
                    return
                async with await self._connect() as monitor:
                    yield monitor
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise await self._unanswered(limit) from error
        except MonitorLost as error:
            if self._process.wait(0):
                raise NotRunning(f"machine {self.name!r} has ended", detail=error.summary) from error
            raise

    async def _connect(self) -> Monitor:
        try:
            connection = connect_unix(self.paths.qmp)
        except OSError as error:
            raise NotRunning(f"machine {self.name!r} does not answer: {error.strerror}") from error
        return await Monitor.connect(connection, name=self.name)

    async def _unanswered(self, limit: float) -> DeadlineExceeded | MonitorBusy:
        # pyroute2 runs an event loop of its own, which can't be within ours: hence the thread.
        is_private = self._monitor is not None
        holder = None if is_private else await asyncio.to_thread(deferred.find_client, self.paths.qmp)
        if holder is not None:
            return MonitorBusy(
                f"the monitor of {self.name!r} is held by process {holder}",
                detail=f"it did not let go within {limit:g} s",
                hint=f"QEMU serves one monitor client at a time; end process {holder} or wait for it.",
                holder=holder,
            )
        stopped = " (it is stopped: SIGCONT would wake it)" if deferred.is_stopped(self.pid) else ""
        return DeadlineExceeded(
            f"QEMU of {self.name!r} did not answer within {limit:g} s",
            detail=f"process {self.pid}{stopped}",
            hint=f"If it hangs for good: kvmctl kill {self.name}",
        )

    async def qmp(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run any monitor command and return QEMU's reply. Raises QmpError where it refuses."""
        async with self.monitor() as monitor:
            return await monitor.execute(command, arguments)

    async def status(self) -> Status:
        """What QEMU says of itself now."""
        async with self.monitor() as monitor:
            state = await ops.query_status(monitor)
            vnc = await ops.query_vnc(monitor) if self.plan.guest.vnc else None
            has_forwards = any(network.forwards for network in self.plan.networks)
            forwards = await ops.query_forwards(monitor) if has_forwards else []
        return Status(state, self.plan.qemu_version, vnc, tuple(forwards))

    async def pause(self) -> None:
        """Stop the vCPUs."""
        async with self.monitor() as monitor:
            await ops.pause(monitor)

    async def resume(self) -> None:
        """Let the vCPUs run."""
        async with self.monitor() as monitor:
            await ops.cont(monitor)

    async def reset(self) -> None:
        """Press the reset button."""
        async with self.monitor() as monitor:
            await ops.reset(monitor)

    async def press_power_button(self) -> None:
        """Press the ACPI power button. What the guest makes of it is its own affair: see `stop`."""
        async with self.monitor() as monitor:
            await ops.press_power_button(monitor)

    async def set_balloon(self, size: int) -> None:
        """Ask the guest to keep `size` bytes. Returns at once; the BALLOON_CHANGE events tell how far it came."""
        async with self.monitor() as monitor:
            await ops.set_balloon(monitor, size)

    async def balloon(self) -> ops.Balloon:
        """What the guest has and says of it."""
        async with self.monitor() as monitor:
            return await ops.query_balloon(monitor)

    async def wait_for_balloon(self, size: int) -> ops.Balloon:
        """Wait until the guest has `size` bytes, to the page. Raises NotRunning where the machine ends before it."""
        async for _ in observe.changes(self.paths, self._process):  # BALLOON_CHANGE is in the journal
            found = await self.balloon()
            if abs(found.actual - size) < _PAGE:
                return found
        raise NotRunning(f"machine {self.name!r} ended before its balloon had changed")

    async def screenshot(self, path: str) -> None:
        """Save what the first display shows to `path` as PNG."""
        # QEMU writes where it may; the file goes where the caller may, which need not be the same place.
        with tempfile.TemporaryDirectory(dir=self.paths.run) as directory:
            picture = os.path.join(directory, "screenshot.png")
            async with self.monitor() as monitor:
                await ops.screendump(monitor, picture)
            try:
                await asyncio.to_thread(shutil.copyfile, picture, path)
            except OSError as error:
                raise StateError(f"cannot write {path!r}: {error.strerror}") from error

    # -- the guest -----------------------------------------------------------------------------------------------

    def agent(self) -> Agent:
        """The guest's agent. Raises AgentError where the machine has no channel for one."""
        if self.plan.guest.agent is None:
            raise AgentError(
                f"machine {self.name!r} has no channel to a guest agent", hint="Give it one in the spec: [agent]."
            )
        return Agent(partial(connect_unix, self.paths.agent))

    async def wait_for_agent(self) -> None:
        """Wait until the guest's agent answers. Raises NotRunning where the machine ends before it."""
        agent = self.agent()
        if self.plan.guest.agent == "virtio":
            await observe.wait_for_agent_channel(self.paths, self._process)
        agent.patience = None  # a serial port tells nobody that it was opened: the first answer does
        await agent.ping()

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> ExecResult:
        """Run a command in the guest, through its agent, and wait for its end; see `kvmctl.guest.run.run`.

        Raises AgentError, DeadlineExceeded; whoever stops waiting ends the command too.
        """
        return await run(self.agent(), argv, env=env, stdin=stdin, on_stdout=on_stdout, on_stderr=on_stderr)

    # -- the end -------------------------------------------------------------------------------------------------

    async def wait(self) -> Exit:
        """Wait for the machine to end, and say how it did."""
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
            async with self.monitor(deadline=_ASK_SECONDS) as monitor:
                await ops.quit_qemu(monitor)
        except NotRunning:
            return self._settle()
        except KvmctlError:
            self._process.signal(SIGTERM)
        return self._settle() if await self.ended_within(end.TERM_SECONDS) else await self.kill()

    async def kill(self) -> Exit:
        """A power cut: SIGKILL."""
        end.send_kill(self.paths, self._process, by="kill")
        return self._settle()

    def _settle(self) -> Exit:
        """Collect the process if it was ours, note its exit status, and read how it ended."""
        if self._exit is None:
            status = self._child.reap() if self._child is not None else None
            if status is not None:
                journal.append_event(self.paths, EXIT, {"status": status})
            self._exit = history.find_exit(self.paths)
        return self._exit

    async def close(self) -> None:
        """Let go of the machine, which runs on."""
        if self._monitor is not None:
            await self._monitor.close()
            self._monitor = None
        if self._child is not None:
            if self.is_alive:
                self._child.disown()
            else:
                self._settle()
        self._process.close()

    def forget(self) -> None:
        """Remove all that a captive machine, which has ended, leaves. Does nothing for one that stands on its own."""
        if self._claim is not None and self._claim.is_captive:
            self._claim.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- what it tells -------------------------------------------------------------------------------------------

    def events(self) -> AsyncIterator[Event]:
        """Every event of this run: those that were, then each as it comes, until the machine ends."""
        return observe.follow_events(self.paths, self._process)

    async def wait_for_event(self, name: str) -> Event:
        """The first event `name` from now on. Raises NotRunning where the machine ends before it."""
        return await observe.wait_for_event(self.paths, self._process, name)

    async def wait_for_console(self, pattern: str) -> str:
        """The console's first line in which the regular expression `pattern` is found, printed before now or after.

        Raises NotRunning where the machine ends without it.
        """
        return await observe.wait_for_console(self.paths, self._process, pattern)

    def console_output(self, *, from_now: bool = False) -> AsyncIterator[bytes]:
        """What the first serial console prints until the machine ends: from its first byte, or only from now on."""
        offset = files.size_of(self.paths.console_log) if from_now else 0
        return observe.follow_console(self.paths, self._process, offset=offset)

    def console_text(self, *, limit: int = 1 << 20) -> str:
        """The last `limit` bytes of what the first serial console printed."""
        return files.read_tail(self.paths.console_log, limit=limit)
