"""Every machine there is and what it is doing, by looking at files and locks only: no monitor, no asyncio, no pydantic.

A hundred machines are a hundred lock queries and a hundred small files. What can't be read is listed as broken with
the reason; nothing is ever hidden.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kvmctl.errors import KvmctlError, NotFound
from kvmctl.plan import preset
from kvmctl.plan.paths import BUILTIN_SPECS, MachinePaths, Roots
from kvmctl.runtime import deferred, history, journal, store
from kvmctl.runtime.definitions import defined_names, is_defined, state_names
from kvmctl.runtime.events import Exit, State, derive


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """One machine as `list` shows it."""

    name: str
    state: State
    is_defined: bool
    """There is a spec of that name; without one it is a machine that was started from a file and is forgotten at its
    end."""
    pid: int | None = None
    accel: str | None = None
    cpus: int | None = None
    memory: int | None = None
    """Bytes at boot."""
    started: float | None = None
    """Seconds since the epoch."""
    exit: Exit | None = None
    """How its last run ended; None while it runs, or where it never did."""
    agent_open: bool = False
    problem: str = ""
    """Why it is broken."""


def list_machines(roots: Roots | None = None, *, include_stopped: bool = False) -> list[MachineInfo]:
    """The running machines, sorted by name; with `include_stopped` also those that are not."""
    roots = roots or store.find_roots()
    store.sweep(roots)
    names = set(store.run_names(roots))
    defined = defined_names(roots)
    kept = state_names(roots) if include_stopped else set()
    found = [inspect(roots, name, is_defined=name in defined) for name in sorted(names | defined | kept)]
    if include_stopped:
        return [machine for machine in found if machine.state is not State.STOPPED or _is_there(machine, roots)]
    return [machine for machine in found if machine.state is not State.STOPPED]


def _is_there(machine: MachineInfo, roots: Roots) -> bool:
    """Whether it was not removed by somebody else just when it was looked at."""
    return machine.is_defined or _has_left(roots.machine(machine.name))


def _has_left(paths: MachinePaths) -> bool:
    """Whether there is something of a machine: of its run, or of what is kept from run to run."""
    return os.path.isdir(paths.run) or os.path.isdir(paths.state)


def find_machine(name: str, *, roots: Roots | None = None) -> MachineInfo:
    """The machine `name`. Raises NotFound, naming the nearest ones."""
    roots = roots or store.find_roots()
    paths = roots.machine(name)
    store.sweep_one(paths)
    has_spec = is_defined(name, roots)
    if not has_spec and not _has_left(paths):
        raise unknown(name, defined_names(roots) | set(store.run_names(roots)) | state_names(roots))
    return inspect(roots, name, is_defined=has_spec)


def inspect(roots: Roots, name: str, *, is_defined: bool) -> MachineInfo:
    """What can be seen of one machine from its files; a broken one is described, not raised."""
    try:
        paths = roots.machine(name)
        if store.is_alive(paths):
            return _inspect_running(paths, is_defined=is_defined)
        return MachineInfo(name, State.STOPPED, is_defined, exit=history.read_last_exit(paths))
    except (KvmctlError, OSError, ValueError, KeyError) as error:
        summary = error.summary if isinstance(error, KvmctlError) else f"{type(error).__name__}: {error}"
        return MachineInfo(name, State.BROKEN, is_defined, problem=summary)


def how_to_start(name: str, roots: Roots) -> str:
    """The command that starts machine `name`: by its spec, or again from the file that it was started from."""
    source = None
    with suppress(KvmctlError, OSError, ValueError):
        source = None if is_defined(name, roots) else _read_plan(roots.machine(name)).get("source")
    if source is None:
        return _how_to_start_again(name, roots)
    called = next((word for word, path in BUILTIN_SPECS.items() if path == source), preset.find_image(source))
    if called == name:
        return f"kvmctl start {name}"
    return f"kvmctl start {called or shlex.quote(source)} --name {name}"


def _how_to_start_again(name: str, roots: Roots) -> str:
    """The command for a machine of whose runs there is no plan: it was swept, or never was."""
    is_called = is_defined(name, roots) or name in BUILTIN_SPECS or name in deferred.image_names(roots)
    return f"kvmctl start {name}" if is_called else f"kvmctl start FILE --name {name}"


def no_console_log(name: str) -> NotFound:
    """The error for a console that is only heard by who listens."""
    return NotFound(
        f"no log is kept of the console of {name!r}",
        hint="Have one kept: [[serials]] with log = true, as without any mention of serials.",
    )


def has_console_log(paths: MachinePaths) -> bool:
    """Whether what the first console prints, or printed in the last run, is kept; as far as its plan tells."""
    with suppress(OSError, ValueError):
        consoles = _read_plan(paths).get("consoles")
        return not isinstance(consoles, list) or bool(consoles and consoles[0].get("log"))
    return True


def no_spec(name: str, roots: Roots) -> NotFound:
    """The error for a machine that is to be started and has no spec."""
    if os.path.exists(roots.machine(name).plan):
        command = how_to_start(name, roots)
        if command == f"kvmctl start {name}":  # it was the name of an image, which is gone by now, but not its disk
            command = f"kvmctl start {preset.spec_of_image(name)}"
        return NotFound(f"machine {name!r} has no spec of its own", hint=f"Start it: {command}")
    if name in state_names(roots):
        return NotFound(
            f"machine {name!r} has no spec of its own",
            hint=f"Start it from the file of its spec: kvmctl start FILE --name {name}; "
            f"or remove what is left of it: kvmctl rm {name}",
        )
    return unknown(name, defined_names(roots) | set(BUILTIN_SPECS) | deferred.image_names(roots))


def unknown(name: str, names: set[str]) -> NotFound:
    """The error for a machine that does not exist."""
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "See them all with: kvmctl list --all"
    return NotFound(f"there is no machine {name!r}", hint=hint)


def _inspect_running(paths: MachinePaths, *, is_defined: bool) -> MachineInfo:
    record = _read_plan(paths)
    told = derive(journal.read_events(paths))
    return MachineInfo(
        name=paths.name,
        state=told.state,
        is_defined=is_defined,
        pid=store.read_pid(paths),
        accel=record.get("accel"),
        cpus=record.get("cpus"),
        memory=record.get("memory"),
        started=told.started,
        agent_open=told.agent_open,
    )


def _read_plan(paths: MachinePaths) -> dict[str, Any]:
    """The plan's record, not made into a `Plan`: three of its fields are wanted."""
    try:
        with open(paths.plan, encoding="utf-8") as file:
            record = json.load(file)
    except FileNotFoundError:
        return {}  # claimed, and not yet written
    return record if isinstance(record, dict) else {}
