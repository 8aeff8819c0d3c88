"""Waiting, by name, until a machine has come to a state: what scripts do between a start and the first use."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, get_args

from inotify_simple import flags

from kvmctl.errors import KvmctlError, NotRunning
from kvmctl.plan.paths import Roots
from kvmctl.runtime import files, listing, observe, store
from kvmctl.runtime.attach import attach
from kvmctl.runtime.events import State
from kvmctl.runtime.watch import watch_path

Kind: TypeAlias = Literal["running", "stopped", "agent", "console", "event"]

_WITH_ARGUMENT: Final = frozenset({"console", "event"})


@dataclass(frozen=True, slots=True)
class Condition:
    """What to wait for; `argument` is the regular expression of ``console``, the name of ``event``."""

    kind: Kind
    argument: str = ""


def parse_condition(text: str) -> Condition:
    """``running``, ``stopped``, ``agent``, ``console:REGEX``, ``event:NAME``; KvmctlError is raised for all else."""
    kind, colon, argument = text.partition(":")
    if kind not in get_args(Kind) or (kind in _WITH_ARGUMENT) is not bool(argument) or (colon and not argument):
        raise KvmctlError(
            f"{text!r} is nothing to wait for", hint="One of: running, stopped, agent, console:REGEX, event:NAME"
        )
    if kind == "event" and argument != argument.upper():
        raise KvmctlError(
            f"QEMU has no event {argument!r}",
            hint=f"They are in capitals: event:{argument.upper()}",
        )
    return Condition(cast("Kind", kind), argument)


async def wait_for(name: str, condition: Condition, *, roots: Roots | None = None) -> str:
    """Wait until machine `name` meets `condition`, and say how it did: how it ended, the line, the event.

    ``running`` and ``stopped`` may already be so; ``running`` waits for a machine that nobody has started yet.
    ``console`` looks at all it printed, ``event`` at those from now on. Raises NotFound, and NotRunning where the
    machine ends before it came to it.
    """
    match condition.kind:
        case "running":
            return await _running(name, roots or store.find_roots())
        case "stopped":
            return await _stopped(name, roots)
        case "agent":
            async with attach(name, roots=roots) as vm:
                await vm.wait_for_agent()
                return "the guest agent answers"
        case "console":
            async with attach(name, roots=roots) as vm:
                return await vm.wait_for_console(condition.argument)
        case "event":
            async with attach(name, roots=roots) as vm:
                return (await vm.wait_for_event(condition.argument)).name


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
