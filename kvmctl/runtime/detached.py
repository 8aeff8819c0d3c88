"""Starting a machine that goes on without us, as quickly as a command can.

The plan of an unchanged spec is taken from the cache, without pydantic; and QEMU is told to run without asyncio and
qemu.qmp, the other slow imports.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NamedTuple

from kvmctl.errors import KvmctlError
from kvmctl.plan.paths import Roots
from kvmctl.runtime import definitions, specs, store
from kvmctl.runtime.begin import START_SECONDS, Beginning, begin
from kvmctl.runtime.exchange import Exchange
from kvmctl.runtime.logout import warn_of_logout
from kvmctl.runtime.plan_cache import Entry


class Started(NamedTuple):
    """A machine that runs, and what is worth a warning."""

    name: str
    pid: int
    warnings: tuple[str, ...]


def start_detached(reference: str, *, name: str | None = None, roots: Roots | None = None) -> Started:
    """Start the machine of the spec that `reference` names or is the file of, under `name` or its own.

    Raises AlreadyRunning, SpecError, NotFound, HostError, LaunchFailed. Where an event loop runs it refuses
    to, before anything is touched: that has `kvmctl.start`.
    """
    _refuse_within_loop()
    roots = roots or store.find_roots()
    if name is None:
        name = specs.find_name(reference)
    entry = Entry(roots, specs.find_spec(reference, roots=roots), name)
    plan = entry.load()
    if plan is None:
        prepared, machine = _prepare(entry)
        plan = prepared.plan
        if prepared.is_lasting:
            entry.save(plan, qemu=machine.qemu)
    plan = warn_of_logout(plan, roots)
    paths = roots.machine(plan.name)
    is_defined = definitions.is_defined(plan.name, roots)
    try:
        pid = _finish(begin(plan, paths, is_captive=False, is_defined=is_defined))
    except KvmctlError:
        entry.discard()  # it may be the plan that no longer fits, in a way that no stamp tells
        raise
    return Started(plan.name, pid, plan.warnings)


def _refuse_within_loop() -> None:
    asyncio = sys.modules.get("asyncio")  # where nobody has imported it, no loop runs
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001  # documented
        message = "an event loop is running: use await kvmctl.start(...)"
        raise RuntimeError(message)


def _prepare(entry: Entry) -> Any:
    """The plan and the machine it is of, by way of pydantic and the compiler."""
    prepare = import_module("kvmctl.runtime.prepare")
    machine = prepare.load_machine(entry.spec)
    return prepare.prepare(machine, name=entry.name, roots=entry.roots), machine


def _finish(beginning: Beginning) -> int:
    """Let the machine run; its process id."""
    with beginning.undone_on_error():
        qmp = Exchange(beginning.child.monitor, name=beginning.plan.name, seconds=START_SECONDS)
        qmp.open()
        for step in beginning.plan.before_run:
            qmp.execute(step.execute, step.arguments)
        beginning.child.widen_backlogs()
        qmp.execute("cont")
        beginning.succeed()
    with beginning.child.process as process:
        beginning.child.disown()
        return process.pid
