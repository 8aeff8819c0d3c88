"""Attaching to a machine that runs, whoever started it."""

from __future__ import annotations

from contextlib import ExitStack

from kvmctl import files
from kvmctl.errors import StateError
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import end, store
from kvmctl.runtime.vm import Vm


def attach(name: str, *, roots: Roots | None = None) -> Vm:
    """The running machine `name`. Raises NotFound, NotRunning, StateError where its plan can't be read."""
    with ExitStack() as stack:
        paths, process = end.find_running(name, roots=roots)
        stack.enter_context(process)
        plan = read_plan(paths)
        journal = stack.enter_context(end.open_journal(paths, process))
        stack.pop_all()
    return Vm(plan, paths, process, journal)


def read_plan(paths: MachinePaths) -> Plan:
    """The plan that the machine's present or last run was started from. Raises StateError, and NotRunning where it is
    about to be written."""
    try:
        with open(paths.plan, encoding="utf-8") as file:
            return Plan.loads(file.read())
    except OSError as error:
        if isinstance(error, FileNotFoundError) and store.is_tethered(paths):
            raise end.being_started(paths) from error
        raise files.cannot("read", paths.plan, error) from error
    except ValueError as error:
        raise StateError(
            f"{paths.plan!r} is not a plan this kvmctl understands",
            detail=str(error),
            hint=f"It may be of another version: end the machine with kvmctl kill {paths.name}",
        ) from error
