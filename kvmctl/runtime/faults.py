"""Faults on demand: what goes wrong with real machines, done to a virtual one while it runs, so that a test may look
how its guest bears it.

A power cut is `Vm.kill`, and a memory squeeze is `Vm.set_balloon`: neither is only a fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from signal import SIGCONT, SIGSTOP
from typing import Final, TypeVar

from kvmctl.errors import AgentError, KvmctlError, NotFound, QmpError
from kvmctl.guest.agent import Agent
from kvmctl.guest.run import run
from kvmctl.plan.model import Disk, Network
from kvmctl.runtime import blockfaults
from kvmctl.runtime.handle import Handle

_PANIC_ON_NMI: Final = "echo 1 >/proc/sys/kernel/unknown_nmi_panic; echo 1 >/proc/sys/kernel/panic_on_unrecovered_nmi"
_NANOSECONDS: Final = 10**9
_CLOCK_SLACK: Final = 60
"""Seconds that setting the clock may take."""

Device = TypeVar("Device", Disk, Network)


class Faults:
    """What can be done to a machine: `Vm.faults`.

    Each may be done from any process, and is undone by its ``mend``; nothing outlives the machine's QEMU. Raises
    NotFound for a device that the machine does not have. What the operations of `Vm` raise, these do too.
    """

    def __init__(self, machine: Handle, *, agent: Callable[[], Agent]) -> None:
        self._machine = machine
        self._agent = agent

    # -- the network ---------------------------------------------------------------------------------------------

    async def cut_network(self, network: str | None = None) -> None:
        """Pull the cable out of the card `network`, or of every one: the guest sees the carrier go."""
        await self._set_links(network, up=False)

    async def mend_network(self, network: str | None = None) -> None:
        """Put the cable back."""
        await self._set_links(network, up=True)

    async def _set_links(self, network: str | None, *, up: bool) -> None:
        chosen = self._choose(self._machine.plan.networks, network, kind="network card")
        async with self._machine.monitor() as monitor:
            for item in chosen:
                await monitor.execute("set_link", {"name": item.id, "up": up})

    # -- disks ---------------------------------------------------------------------------------------------------

    async def fail_disk(
        self,
        disk: str | None = None,
        *,
        error: str = "EIO",
        on: Sequence[str] = ("read", "write"),
        offset: int | None = None,
        once: bool = False,
    ) -> None:
        """Let requests to `disk` (or to the only one) fail, in place of how they failed before.

        With `offset` only those that touch the sector at that byte; with `once` the first of each kind. What the guest
        is told is the spec's matter (``werror``, ``rerror``): unless it says otherwise, ENOSPC stops the machine.
        Raises KvmctlError for a kind of request or an error that there is not.
        """
        kinds = [_known(kind, blockfaults.REQUESTS, what="a disk's request") for kind in on]
        number = blockfaults.ERRORS[_known(error, blockfaults.ERRORS, what="a disk's error")]
        if offset is not None and offset < 0:
            raise KvmctlError(f"a disk has no byte {offset}")
        target = self._only_disk(disk)
        async with self._machine.monitor() as monitor:
            await blockfaults.fail(monitor, target, error=number, on=kinds, offset=offset, once=once)

    async def slow_disk(
        self, disk: str | None = None, *, bytes_per_second: int = 0, operations_per_second: int = 0
    ) -> None:
        """Let `disk` (or the only one) do no more than that; 0 is no limit. Raises KvmctlError where both are."""
        if min(bytes_per_second, operations_per_second) < 0 or not (bytes_per_second or operations_per_second):
            raise KvmctlError("a slow disk needs a limit above 0", hint="To have none again: mend the disk.")
        target = self._only_disk(disk)
        async with self._machine.monitor() as monitor:
            await blockfaults.limit(
                monitor, target, bytes_per_second=bytes_per_second, operations_per_second=operations_per_second
            )

    async def mend_disk(self, disk: str | None = None) -> None:
        """Let `disk`, or every one, work as before. A machine that was stopped by an error goes on with `Vm.resume`."""
        drives = [item for item in self._machine.plan.disks if item.node is not None]
        async with self._machine.monitor() as monitor:
            for item in self._choose(drives, disk, kind="disk"):
                await blockfaults.mend(monitor, item)

    def _only_disk(self, disk: str | None) -> Disk:
        drives = [item for item in self._machine.plan.disks if disk is not None or item.device == "disk"]
        chosen = self._choose(drives, disk, kind="disk")
        if len(chosen) > 1:
            names = ", ".join(item.id for item in chosen)
            raise KvmctlError(f"machine {self._machine.name!r} has several disks", hint=f"Name one of: {names}.")
        return chosen[0]

    def _choose(self, devices: Sequence[Device], wanted: str | None, *, kind: str) -> list[Device]:
        """The device of that id, or all there are."""
        found = [item for item in devices if wanted in {None, item.id}]
        if found:
            return found
        names = ", ".join(item.id for item in devices)
        asked = f" {wanted!r}" if wanted is not None else ""
        raise NotFound(
            f"machine {self._machine.name!r} has no {kind}{asked}",
            hint=f"It has: {names}." if names else "",
        )

    # -- time and CPUs -------------------------------------------------------------------------------------------

    async def stall(self, seconds: float) -> None:
        """Give the CPUs no time for so long, as a host does that has too much to do: the guest's clocks run on.

        The whole of QEMU stands still, its monitor and disks included. For CPUs that halt together with their clocks
        there are `Vm.pause` and `Vm.resume`. Whoever is cancelled meanwhile lets it go on.
        """
        if seconds <= 0:
            raise KvmctlError(f"a machine can't be stalled for {seconds:g} s")
        if await self._machine.ended_within(0):
            return
        self._machine.signal(SIGSTOP)
        try:
            await self._machine.ended_within(seconds)
        finally:
            self._machine.signal(SIGCONT)

    async def jump_clock(self, seconds: float) -> float:
        """Set the guest's clock ahead by so much, or back, and return what it then is (seconds since the epoch).

        Through the agent. Raises AgentError where the guest's agent can't.
        """
        agent = self._agent()
        now: int = await agent.execute("guest-get-time")
        wanted = now + int(seconds * _NANOSECONDS)
        try:
            await agent.execute("guest-set-time", {"time": wanted})
        except AgentError:
            # The agent wants to set the RTC as well, by a /sbin/hwclock, which a small guest need not have.
            await run(agent, ["/bin/sh", "-c", f"date -u -s @{wanted // _NANOSECONDS}"])
        found: int = await agent.execute("guest-get-time")
        if abs(found - wanted) > _CLOCK_SLACK * _NANOSECONDS:
            raise AgentError("the guest's clock was not set", detail=f"it says {time.ctime(found / _NANOSECONDS)}")
        return found / _NANOSECONDS

    async def inject_nmi(self) -> None:
        """Send a non-maskable interrupt, as the button on a server does; Linux takes it on its first CPU."""
        async with self._machine.monitor() as monitor:
            try:
                await monitor.execute("inject-nmi")
            except QmpError as error:
                error.hint = "A machine of this type may have no way to: use machine = 'q35' or 'pc'."
                raise

    async def crash_kernel(self) -> None:
        """Let the guest's kernel, a Linux, panic: told through its agent to do so at an NMI, and then given one.

        What comes of that is the guest's and the spec's matter (``on_crash``); with a panic device there is an event,
        GUEST_PANICKED. Raises AgentError where the kernel can't be told.
        """
        told = await run(self._agent(), ["/bin/sh", "-c", f"{_PANIC_ON_NMI} && sync"])
        if told.exit_code:
            raise AgentError("the guest's kernel can't be told to panic", detail=told.stderr.decode(errors="replace"))
        await self.inject_nmi()


def _known(word: str, words: Iterable[str], *, what: str) -> str:
    if word not in words:
        raise KvmctlError(f"{word!r} is not {what}", hint=f"One of: {', '.join(words)}.")
    return word
