"""Waiting, by name, until a machine has come to a state: what scripts do between a start and the first use."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final, Literal, Never, TypeAlias, assert_never, cast, get_args

from inotify_simple import flags

from kvmctl import files
from kvmctl.errors import KvmctlError, NotRunning, WaitFailed
from kvmctl.plan.paths import Roots
from kvmctl.runtime import conditions, listing, observe, store
from kvmctl.runtime.attach import attach
from kvmctl.runtime.describe import find_verdict
from kvmctl.runtime.events import Event, State, derive
from kvmctl.runtime.inside import Way, wait_for_way
from kvmctl.runtime.race import first_of
from kvmctl.runtime.vm import Vm
from kvmctl.runtime.watch import watch_path

Kind: TypeAlias = Literal[
    "running", "stopped", "agent", "ssh", "cloud-init", "unit", "port", "exec", "console", "event"
]  # fmt: skip

GUEST_CONDITIONS: Final = "agent, ssh, cloud-init, unit:NAME, port:NUMBER, exec:COMMAND, console:REGEX"
CONDITIONS: Final = f"running, stopped, {GUEST_CONDITIONS}, event:NAME"
_NOT_OF_GUESTS: Final = frozenset({"running", "stopped", "event"})
_WITH_ARGUMENT: Final = frozenset({"unit", "port", "exec", "console", "event"})
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}", re.ASCII)
_CONSOLE_TAIL: Final = 1000


@dataclass(frozen=True, slots=True)
class Condition:
    """What to wait for; `argument` is the unit, the port, the command, the regular expression, the event's name."""

    kind: Kind
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


@dataclass(slots=True)
class Sightings:
    """What has been seen of conditions that have not come yet, for whoever gives up waiting for them."""

    notes: dict[Condition, str] = field(default_factory=dict)
    console: str = ""
    """The file with what the console said."""

    def __str__(self) -> str:
        lines = [f"{condition}: {note}" for condition, note in self.notes.items()]
        said = self._last_line()
        return "\n".join([*lines, *([f"the console's last line: {said}"] if said else [])])

    def _last_line(self) -> str:
        text = files.read_tail(self.console, limit=_CONSOLE_TAIL).replace("\r", "\n")
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def parse_condition(text: str) -> Condition:
    """The condition that `text` stands for, one of `CONDITIONS`. Raises KvmctlError."""
    kind, colon, argument = text.partition(":")
    if kind not in get_args(Kind) or (kind in _WITH_ARGUMENT) is not bool(argument) or (colon and not argument):
        raise KvmctlError(f"{text!r} is nothing to wait for", hint=f"One of: {CONDITIONS}")
    if kind == "event" and argument != argument.upper():
        raise KvmctlError(
            f"QEMU has no event {argument!r}",
            hint=f"They are in capitals: event:{argument.upper()}",
        )
    if kind == "port" and not (argument.isascii() and argument.isdigit() and 0 < int(argument) < 65536):
        raise KvmctlError(f"{argument!r} is no TCP port", hint="A number from 1 to 65535: port:80")
    if kind == "unit" and not _UNIT.fullmatch(argument):
        raise KvmctlError(f"{argument!r} is no name of a systemd unit", hint="Such as unit:nginx or unit:data.mount")
    return Condition(cast("Kind", kind), argument)


def parse_guest_condition(text: str) -> Condition:
    """The condition that `text` stands for, one of `GUEST_CONDITIONS`. Raises KvmctlError."""
    condition = parse_condition(text)
    if condition.kind in _NOT_OF_GUESTS:
        raise KvmctlError(f"{text!r} is nothing that a guest comes to", hint=f"One of: {GUEST_CONDITIONS}")
    return condition


async def meet(vm: Vm, condition: Condition, *, seen: Sightings | None = None) -> str:
    """Wait until `vm`, which runs, meets `condition`, and say how it did; see `wait_for`. Errors have a verdict."""
    seen = Sightings() if seen is None else seen
    seen.console = vm.paths.console_log
    with vm.judged():
        _, said = await first_of(_came(vm, condition, seen), _doom(vm, str(condition)))
    seen.notes.pop(condition, None)
    return said


async def wait_to_run_inside(vm: Vm, *, seen: Sightings | None = None) -> Way:
    """Wait until commands can be run in the guest of `vm`, and return the way: its agent, or ssh if that is quicker.

    `seen` gets what is seen meanwhile. Raises NotRunning where the machine ends before it, WaitFailed where its guest
    panics, Unreachable where there is neither a channel to an agent nor a network.
    """
    seen = Sightings() if seen is None else seen
    seen.console = vm.paths.console_log
    condition = Condition("ssh" if vm.plan.guest.agent is None else "agent")

    def note(text: str) -> None:
        seen.notes[condition] = text

    with vm.judged():
        _, way = await first_of(wait_for_way(vm, note=note), _doom(vm, "a command could be run in it"))
    seen.notes.pop(condition, None)
    return way


async def wait_for(
    name: str, condition: Condition, *, roots: Roots | None = None, seen: Sightings | None = None
) -> str:
    """Wait until machine `name` meets `condition`, and say how it did: how it ended, the line, the event.

    ``running`` and ``stopped`` may already be so; ``running`` waits for a machine that nobody has started yet.
    ``console`` looks at all it printed, ``event`` at those from now on. Nothing of the guest is taken to be there
    because a port of the host accepts a connection: QEMU does that before it asks. `seen` gets what is seen meanwhile.

    Raises NotFound, NotRunning where the machine ends before it came to it, WaitFailed where it can't come any more,
    AgentError and Unreachable where the machine has no way to tell.
    """
    seen = Sightings() if seen is None else seen
    match condition.kind:
        case "running":
            said = await _running(name, roots or store.find_roots())
        case "stopped":
            said = await _stopped(name, roots)
        case _:
            roots = roots or store.find_roots()
            seen.console = roots.machine(name).console_log  # known before it runs, for whoever gives up before that
            async with _attach(name, roots) as vm:
                said = await meet(vm, condition, seen=seen)
    return said


async def wait_for_all(
    name: str, conditions: Sequence[Condition], *, roots: Roots | None = None, seen: Sightings | None = None
) -> list[str]:
    """Wait until machine `name` has met each of `conditions`, and say how it met each; see `wait_for`.

    They are waited for at the same time; the first that can't come is an error at once.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait_for(name, one, roots=roots, seen=seen)) for one in conditions]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _attach(name: str, roots: Roots) -> Vm:
    """The running machine; one that runs no more ended before it was asked, and what became of it is told."""
    try:
        return attach(name, roots=roots)
    except NotRunning as error:
        with suppress(KvmctlError):  # it may never have run
            error.verdict = find_verdict(name, roots=roots)
        raise


async def _came(vm: Vm, condition: Condition, seen: Sightings) -> str:
    def note(text: str) -> None:
        seen.notes[condition] = text

    kind, argument = condition.kind, condition.argument
    match kind:
        case "agent":
            return await conditions.wait_agent(vm, note=note)
        case "ssh":
            return await conditions.wait_ssh(vm, note=note)
        case "cloud-init":
            return await conditions.wait_cloud_init(vm, note=note)
        case "unit":
            return await conditions.wait_unit(vm, argument, note=note)
        case "port":
            return await conditions.wait_port(vm, argument, note=note)
        case "exec":
            return await conditions.wait_exec(vm, argument, note=note)
        case "console":
            return await vm.wait_for_console(argument)
        case "event":
            return (await vm.wait_for_event(argument)).name
        case "running" | "stopped":
            raise KvmctlError(f"{condition} is not asked of the guest")
        case _:
            assert_never(kind)


async def _doom(vm: Vm, awaited: str) -> Never:
    """Wait for the end of the machine, or of its guest, and raise what that means for what is `awaited`."""
    seen: list[Event] = []
    async with aclosing(vm.events()) as events:
        async for event in events:
            seen.append(event)
            if event.name == "STOP" and derive(seen).state is State.PANICKED:
                raise WaitFailed(f"the guest of {vm.name!r} panicked before {awaited}", detail=_tail(vm))
    end = await vm.wait()
    raise NotRunning(f"machine {vm.name!r} ended before {awaited}: {end.reason}", detail=_tail(vm))


def _tail(vm: Vm) -> str:
    return vm.console_text(limit=_CONSOLE_TAIL)


async def _running(name: str, roots: Roots) -> str:
    paths = roots.machine(name)
    files.make_private_dir(roots.runtime)
    with watch_path(roots.runtime, flags.CREATE | flags.MOVED_TO) as inotify:
        while True:
            with suppress(OSError):  # it may not be there yet; watched before it is looked at, so nothing is missed
                inotify.add_watch(paths.run, flags.CREATE | flags.MODIFY | flags.MOVED_TO)
            machine = listing.inspect(roots, name, is_defined=True)
            if machine.state is State.RUNNING:
                return State.RUNNING.value
            await observe.wait_readable(inotify.fileno())
            inotify.read(timeout=0)


async def _stopped(name: str, roots: Roots | None) -> str:
    try:
        async with attach(name, roots=roots) as vm:
            return (await vm.wait()).reason.value
    except NotRunning:
        end = listing.find_machine(name, roots=roots).exit
        return "it never ran" if end is None else end.reason.value
