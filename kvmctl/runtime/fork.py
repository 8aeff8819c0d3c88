"""Forks: machines that go on where a template was frozen, on its memory and disks, copy-on-write.

What a fork is was decided when its template was made; here it is given a name, a directory and an identity, and QEMU is
started, told to load, and let go. Nobody gets to see a fork before its guest has random numbers of its own.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from kvmctl.errors import AlreadyRunning, HostError, MonitorLost, StateError
from kvmctl.guest.agent import Agent
from kvmctl.guest.renew import SEED_BYTES, Renewal, renew
from kvmctl.guest.turn import Turn
from kvmctl.plan.captive import tie
from kvmctl.plan.fork import place
from kvmctl.plan.layers import CopyImage
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths, Roots, TemplatePaths
from kvmctl.runtime import deferred, listing, observe, store, template, unfinished
from kvmctl.runtime.begin import Beginning, begin
from kvmctl.runtime.handshake import bring_up
from kvmctl.runtime.journal import Journal, read_events
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.sockets import connect_unix
from kvmctl.runtime.template import Record
from kvmctl.runtime.vm import Vm

FORKED: Final = "KVMCTL_FORKED"
"""kvmctl's own event in a fork's journal: what its guest was given, before anybody got to see the fork."""
MEMORY: Final = 40 << 20
"""Bytes that a fork takes for itself, at least: what QEMU writes, and what its guest does at once."""

_NO_RENEWAL: Final = (
    "no way was found to renew the guest: all forks begin with the same random numbers, and with the time of their "
    "template, unless the guest's kernel has a driver for the generation ID device"
)


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


class Fork(Vm):
    """A fork of a template, for as long as this process lives or until it is disposed of.

    As a context manager it is disposed of at the end. The agent's channel is held open, from the renewal of the guest
    to the first use: an agent that nobody is connected to sleeps for up to 0.1 s.
    """

    def __init__(self, raised: _Raised, journal: Journal) -> None:
        beginning = raised.beginning
        super().__init__(
            beginning.plan,
            beginning.paths,
            beginning.child.process,
            journal,
            monitor=raised.monitor,
            child=beginning.child,
            claim=beginning.claim,
        )
        self.profile = raised.profile
        """How long the fork took."""
        self._warm = raised.warm
        self._is_renewed = raised.profile.renewed > 0

    def agent(self) -> Agent:
        """The guest's agent. Raises AgentError where the machine has no channel for one."""
        super().agent()
        return Agent(self._connect_agent)

    def _connect_agent(self) -> socket.socket:
        warm, self._warm = self._warm, None
        return warm or connect_unix(self.paths.agent)

    async def wait_for_agent(self) -> None:
        """Wait until the guest's agent answers, which it has done where it renewed the guest."""
        if not self._is_renewed:
            await super().wait_for_agent()

    async def close(self) -> None:
        """Dispose of it: a fork that this process holds is good for nothing without it."""
        await self.dispose()

    async def dispose(self) -> None:
        """End the fork and leave nothing of it."""
        if self._warm is not None:
            self._warm.close()
            self._warm = None
        if self._owner == os.getpid() and self.is_alive:
            await self.kill()  # nothing on its disks is for anybody
        await super().dispose()


@dataclass(slots=True)
class _Raised:
    """A fork that runs and is renewed, and that nobody depends on yet."""

    beginning: Beginning
    profile: Profile
    monitor: Monitor | None = None
    warm: socket.socket | None = None
    """The connection to its agent."""

    def close_warm(self) -> None:
        """Hang up on its agent."""
        if self.warm is not None:
            self.warm.close()
            self.warm = None


@dataclass(slots=True)
class Template:
    """A frozen machine to be forked."""

    paths: TemplatePaths
    roots: Roots
    record: Record
    _stamp: list[int]

    @property
    def name(self) -> str:
        """The template's name."""
        return self.paths.name

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is worth knowing of its forks."""
        if self.record.renew is not None:
            return ()
        return (_NO_RENEWAL,)

    async def fork(self, *, name: str | None = None, hostname: str = "") -> Fork:
        """A machine that runs where the template was frozen, and ends with this process or when it is disposed of.

        Its guest has fresh random numbers and the time of now, and is called `hostname` where one is given. Raises
        NotFound, TemplateMisfit, TemplateDamaged, AlreadyRunning, and what starting a machine raises.
        """
        called = name or f"{self.name[:57]}-{secrets.token_hex(3)}"
        paths = self.roots.machine(called, ephemeral=True)
        raised = await self._raise(paths, is_captive=True, hostname=hostname)
        with ExitStack() as stack:
            try:
                journal = stack.enter_context(Journal(paths))
            except BaseException as error:
                raised.close_warm()
                raised.beginning.fail(error)
                raise
            stack.pop_all()
        raised.beginning.succeed()
        return Fork(raised, journal)

    async def fork_detached(self, names: Sequence[str], *, hostnames: bool = False) -> list[Profile]:
        """Machines of these names that go on when this process ends: all of them, or none.

        With `hostnames` each guest is called as its machine. Raises what `fork` raises, and HostError and StateError
        where there is not enough memory or space for all of them, before the first is started.
        """
        for name in names:
            self._check_free(name)
        check_room(self.record.plan, self.roots, count=len(names))
        raised: list[_Raised] = []
        limit = asyncio.Semaphore(os.cpu_count() or 1)

        async def raise_one(name: str) -> None:
            async with limit:
                paths = self.roots.machine(name)
                hostname = name if hostnames else ""
                raised.append(await self._raise(paths, is_captive=False, hostname=hostname))

        try:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(raise_one(name))
        except BaseException as error:  # noqa: BLE001  # raised again, out of its group
            cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            for item in raised:
                item.close_warm()
                item.beginning.fail(cause)
            raise cause from None
        return [_let_go(item) for item in raised]

    def check(self) -> None:
        """See that the template is whole and fits. Raises NotFound, TemplateMisfit, TemplateDamaged."""
        self._reload()
        template.check(self.paths, self.record)

    def _reload(self) -> None:
        """Read the record again where it is another one: the template was made anew."""
        found = _record_stamp(self.paths)
        if found != self._stamp:
            self.record, self._stamp = template.load_record(self.paths), found

    def _check_free(self, name: str) -> None:
        """Raises AlreadyRunning where there is a machine of that name, whatever it does."""
        paths = self.roots.machine(name)
        if store.is_alive(paths):
            raise store.already_running(paths)
        if listing.is_defined(name, self.roots) or os.path.lexists(paths.state):
            raise AlreadyRunning(f"there is a machine {name!r}", hint=f"Choose another name, or: kvmctl rm {name}")

    async def _raise(self, paths: MachinePaths, *, is_captive: bool, hostname: str) -> _Raised:
        profile = Profile()
        with self._held():
            self.check()
            plan = place(self.record.plan, paths, uuid=str(uuid.uuid4()))
            plan = tie(plan, self.record.tie) if is_captive else plan
            raised = _Raised(begin(plan, paths, is_captive=is_captive), profile)
        profile.spawned = profile.now()
        try:
            if self.record.renew is not None:
                raised.warm = connect_unix(paths.agent)  # before the state is loaded: the agent must not see a gap
            await self._bring_up(raised, hostname=hostname)
        except BaseException:
            raised.close_warm()
            raise
        return raised

    def _held(self) -> ExitStack:
        """The template, which nobody removes meanwhile. Raises NotFound, Busy."""
        stack = ExitStack()
        try:
            stack.enter_context(unfinished.shared(self.paths))
        except FileNotFoundError:
            template.load_record(self.paths)
            raise template.unknown(self.paths) from None
        return stack

    async def _bring_up(self, raised: _Raised, *, hostname: str) -> None:
        beginning, profile, command = raised.beginning, raised.profile, self.record.renew

        async def before() -> None:
            await _loaded(beginning)

        async def after() -> None:
            if command is not None and raised.warm is not None:
                async with Turn(Agent(raised.warm.dup)) as turn:
                    await renew(turn, command, renewal(hostname))
                profile.renewed = profile.now()

        def on_greeting() -> None:
            profile.greeted = profile.now()

        raised.monitor = await bring_up(beginning, on_greeting=on_greeting, before=before, after=after)
        _read_times(beginning.paths, profile)
        with Journal(beginning.paths) as journal:
            given = ["random", "clock", *(["hostname"] if hostname else [])] if profile.renewed else []
            journal.note(FORKED, {"template": self.name, "renewed": given})


def load_template(name: str, *, roots: Roots | None = None) -> Template:
    """The template `name`, found to be whole and to fit. Raises NotFound, TemplateMisfit, TemplateDamaged."""
    roots = roots or store.find_roots()
    paths = roots.template(name)
    stamp = _record_stamp(paths)
    found = Template(paths, roots, template.load_record(paths), stamp)
    found.check()
    return found


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


def _record_stamp(paths: TemplatePaths) -> list[int]:
    with suppress(OSError):
        status = os.stat(paths.record)
        return [status.st_ino, status.st_mtime_ns]
    return []


def _let_go(raised: _Raised) -> Profile:
    """Leave a fork to itself."""
    raised.beginning.succeed()
    raised.close_warm()
    child = raised.beginning.child
    child.disown()
    child.process.close()
    return raised.profile


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
