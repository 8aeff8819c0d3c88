"""A running machine in the hand."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from kvmctl import files
from kvmctl.errors import KvmctlError, NotRunning, QmpError, StateError
from kvmctl.runtime import listing, observe, ops
from kvmctl.runtime.events import Event, State
from kvmctl.runtime.faults import Faults
from kvmctl.runtime.inner import Inner
from kvmctl.runtime.monitor import Monitor

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


class Vm(Inner):
    """A machine that runs, or ran until a moment ago. Made by `launch`, `start` and `attach`.

    Each operation has `deadline` seconds. It raises DeadlineExceeded after that, MonitorBusy where another client holds
    the monitor, QmpError where QEMU refuses, NotRunning where the machine has ended, and KvmctlError once closed.
    """

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

    async def wake(self) -> None:
        """Wake a guest that sleeps (ACPI S3). Raises QmpError where it does not."""
        async with self.monitor() as monitor:
            await ops.wake(monitor)

    async def reset(self) -> None:
        """Press the reset button."""
        async with self.monitor() as monitor:
            await ops.reset(monitor)

    async def press_power_button(self) -> None:
        """Press the ACPI power button. What the guest makes of it is its own affair: see `stop`."""
        async with self.monitor() as monitor:
            await ops.press_power_button(monitor)

    async def set_balloon(self, size: int) -> None:
        """Ask the guest to keep `size` bytes. Returns at once; the BALLOON_CHANGE events tell how far it came.

        Raises QmpError where there is no balloon, KvmctlError where the machine has less memory than that.
        """
        async with self.monitor() as monitor:
            limit = await ops.query_memory(monitor)
            if size > limit:
                raise KvmctlError(
                    f"machine {self.name!r} has {limit >> 20} MiB, and a balloon only takes",
                    hint="Memory is given in the spec: memory = ..., for the next start.",
                )
            await ops.set_balloon(monitor, size)

    async def balloon(self) -> ops.Balloon:
        """What the guest has and says of it."""
        async with self.monitor() as monitor:
            return await ops.query_balloon(monitor)

    async def wait_for_balloon(self, size: int) -> ops.Balloon:
        """Wait until the guest has `size` bytes, to the page. Raises NotRunning where the machine ends before it."""
        async for _ in observe.changes(self.paths.journal, self._process):  # BALLOON_CHANGE is in the journal
            found = await self.balloon()
            if abs(found.actual - size) < _PAGE:
                return found
        raise NotRunning(f"machine {self.name!r} ended before its balloon had changed")

    async def screenshot(self, path: str) -> None:
        """Save what the first display shows to `path` as PNG. Raises StateError where that can't be written."""
        if not self.is_alive:
            raise NotRunning(f"machine {self.name!r} has ended")
        # QEMU writes where it may; the file goes where the caller may, which need not be the same place.
        with tempfile.TemporaryDirectory(dir=self.paths.run) as directory:
            picture = os.path.join(directory, "screenshot.png")
            async with self.monitor() as monitor:
                await self._screendump(monitor, picture)
            try:
                await asyncio.to_thread(shutil.copyfile, picture, path)
            except OSError as error:
                raise StateError(f"cannot write {path!r}: {error.strerror}") from error

    async def _screendump(self, monitor: Monitor, picture: str) -> None:
        try:
            await ops.screendump(monitor, picture)
        except QmpError as error:
            if not self.plan.guest.display:
                error.hint = "Give it a display adapter in the spec: video = 'std'"
            raise

    @property
    def faults(self) -> Faults:
        """What can be made to go wrong with it."""
        return Faults(self, agent=self.agent)

    # -- what it tells -------------------------------------------------------------------------------------------

    def events(self) -> AsyncGenerator[Event, None]:
        """Every event of this run: those that were, then each as it comes, until the machine ends."""
        return observe.follow_events(self.paths, self._process)

    def wait_for_event(self, name: str) -> Coroutine[Any, Any, Event]:
        """The first event `name` from this call on, whenever it is awaited: call it, do what leads to it, await it.

        Raises NotRunning where the machine ends before it.
        """
        return self._wait_judged(observe.wait_for_event(self.paths, self._process, name))

    @property
    def has_console_log(self) -> bool:
        """Whether what the first console prints is kept, to be read at any time."""
        return bool(self.plan.consoles and self.plan.consoles[0].log)

    async def wait_for_console(self, pattern: str) -> str:
        """The console's first line in which the regular expression `pattern` is found, printed before now or after.

        Raises NotRunning where the machine ends without it, KvmctlError where that is no regular expression, NotFound
        where no log is kept of the console.
        """
        if not self.has_console_log:
            raise listing.no_console_log(self.name)
        with self.judged():
            return await observe.wait_for_console(self.paths, self._process, pattern)

    def console_output(self, *, from_now: bool = False) -> AsyncGenerator[bytes, None]:
        """What the first serial console prints until the machine ends: from its first byte, or only from now on."""
        offset = files.size_of(self.paths.console_log) if from_now else 0
        return observe.follow_console(self.paths, self._process, offset=offset)

    def console_text(self, *, limit: int = 1 << 20) -> str:
        """The last `limit` bytes of what the first serial console printed."""
        return files.read_tail(self.paths.console_log, limit=limit)
