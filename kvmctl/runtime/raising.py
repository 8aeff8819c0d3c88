"""Bringing up a fork: QEMU is started, loads what was frozen, runs, and its guest is renewed before anybody sees it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from kvmctl.errors import HostError, MonitorLost, StateError
from kvmctl.guest.agent import Agent
from kvmctl.guest.renew import SEED_BYTES, Renewal, renew
from kvmctl.guest.resident import Resident
from kvmctl.guest.turn import Turn
from kvmctl.plan.layers import CopyImage
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.plan.template import RESIDENT
from kvmctl.runtime import deferred, observe
from kvmctl.runtime.agentline import connect_agent
from kvmctl.runtime.begin import Beginning
from kvmctl.runtime.handshake import bring_up
from kvmctl.runtime.journal import Journal, read_events
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.template import Record

FORKED: Final = "KVMCTL_FORKED"
"""kvmctl's own event in a fork's journal: what its guest was given, before anybody got to see the fork."""
MEMORY: Final = 40 << 20
"""Bytes that a fork takes for itself, at least: what QEMU writes, and what its guest does at once."""


@dataclass(slots=True)
class Profile:
    """When a fork had come how far, in seconds since it was asked for; 0 for what it did not do."""

    began: float = field(default_factory=time.time)
    """The clock's time, seconds since the epoch."""
    spawned: float = 0.0
    """QEMU was started."""
    greeted: float = 0.0
    """It answered."""
    loaded: float = 0.0
    """The frozen state was its own."""
    running: float = 0.0
    """Its CPUs ran."""
    renewed: float = 0.0
    """Its guest had random numbers and the time."""

    def now(self) -> float:
        """Seconds since it was asked for."""
        return time.time() - self.began


@dataclass(slots=True)
class Raised:
    """A fork that runs and is renewed, and that nobody depends on yet."""

    beginning: Beginning
    profile: Profile
    monitor: Monitor | None = None
    resident: Resident | None = None
    """The program that waits in its guest."""

    def hang_up(self) -> None:
        """Let go of the program that waits in its guest."""
        if self.resident is not None:
            self.resident.close()
            self.resident = None

    def let_go(self) -> None:
        """Leave it to itself."""
        self.beginning.succeed()
        self.hang_up()
        self.beginning.child.disown()
        self.beginning.child.process.close()

    def fail(self, cause: BaseException) -> BaseException:
        """End it, and leave nothing of it; the error to raise."""
        self.hang_up()
        return self.beginning.fail(cause)


async def finish(beginning: Beginning, profile: Profile, *, record: Record, hostname: str) -> Raised:
    """The fork whose QEMU was started, with its guest renewed as `record` says, where it can be.

    Whatever goes wrong, nothing is left of it. Raises MonitorLost, LaunchFailed, AgentError, DeadlineExceeded.
    """
    raised = Raised(beginning, profile)

    def on_greeting() -> None:
        profile.greeted = profile.now()

    async def before() -> None:
        await _loaded(beginning)
        if raised.resident is not None:
            await raised.resident.send_renewal(renewal(hostname))  # it is there when the guest wakes up

    async def after() -> None:
        if record.renew is not None:
            await _renew(raised, record.renew, hostname)
            profile.renewed = profile.now()

    try:
        if record.is_resident:
            raised.resident = Resident(beginning.child.ends[RESIDENT].dup())
        raised.monitor = await bring_up(beginning, on_greeting=on_greeting, before=before, after=after)
    except BaseException:
        raised.hang_up()
        raise
    _read_times(beginning.paths, profile)
    given = ["random", "clock", *(["hostname"] if hostname else [])] if profile.renewed else []
    with Journal(beginning.paths) as journal:
        journal.note(FORKED, {"template": beginning.plan.template, "renewed": given})
    return raised


async def _renew(raised: Raised, command: Sequence[str], hostname: str) -> None:
    """Wait until the guest is renewed, by what waits in it or by its agent. Raises AgentError, DeadlineExceeded."""
    if raised.resident is not None:
        await raised.resident.wait_renewed()
        return
    async with Turn(Agent(partial(connect_agent, raised.beginning.paths))) as turn:
        await renew(turn, tuple(command), renewal(hostname))


async def _loaded(beginning: Beginning) -> None:
    """Wait until the frozen state is QEMU's own. Raises MonitorLost where QEMU ends before: it could not load it."""
    async for event in observe.follow_events(beginning.paths, beginning.child.process):
        if event.name == "MIGRATION" and event.data.get("status") == "completed":
            return
    raise MonitorLost(f"QEMU of {beginning.plan.name!r} ended while it loaded the frozen state")


def _read_times(paths: MachinePaths, profile: Profile) -> None:
    """What QEMU's own events tell of the times."""
    for event in read_events(paths):
        if event.name == "MIGRATION" and event.data.get("status") == "completed":
            profile.loaded = event.time - profile.began
        elif event.name == "RESUME":
            profile.running = event.time - profile.began


def renewal(hostname: str = "") -> Renewal:
    """Fresh bytes, the time of now, and `hostname`."""
    return Renewal(time.time_ns(), os.urandom(SEED_BYTES), hostname)


def check_room(plan: Plan, roots: Roots, *, count: int) -> None:
    """Raises HostError where the host has not the memory for `count` forks, StateError where it has not the space."""
    free = deferred.available_memory()
    if count * MEMORY > free:
        raise HostError(
            f"{count} forks take at least {count * MEMORY >> 20} MiB of memory, and {free >> 20} MiB are free",
            hint="Fork fewer, or free some: see `free -h`.",
        )
    needed = count * sum(os.stat(step.source).st_size for step in plan.steps if isinstance(step, CopyImage))
    room = os.statvfs(_existing(roots.state))
    if needed > room.f_bavail * room.f_frsize:
        raise StateError(
            f"the disks of {count} forks take at least {needed >> 10} KiB, and {roots.state!r} has not that much left",
            hint="Fork fewer, or free some space.",
        )


def _existing(directory: str) -> str:
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory
