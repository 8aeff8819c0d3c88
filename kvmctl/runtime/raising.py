"""Bringing up a fork: QEMU is started, loads what was frozen, runs, and its guest is renewed before anybody sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from kvmctl.errors import MonitorLost
from kvmctl.guest.agent import Agent
from kvmctl.guest.renew import renew
from kvmctl.guest.resident import Resident
from kvmctl.guest.turn import Turn
from kvmctl.plan.paths import RESIDENT, MachinePaths
from kvmctl.runtime import observe
from kvmctl.runtime.agentline import connect_agent
from kvmctl.runtime.begin import Beginning
from kvmctl.runtime.forking import note_forked, renewal
from kvmctl.runtime.handshake import bring_up
from kvmctl.runtime.journal import read_events
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.template_record import Record


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
    note_forked(beginning, is_renewed=profile.renewed > 0, hostname=hostname)
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
