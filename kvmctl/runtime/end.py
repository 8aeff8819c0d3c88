"""Ending a machine without asking it: signals, through a descriptor that means QEMU and nothing else. No asyncio."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from signal import SIGKILL, SIGTERM

from kvmctl.errors import DeadlineExceeded, NotRunning
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import history, listing, store
from kvmctl.runtime.events import KILL, Exit
from kvmctl.runtime.journal import Journal
from kvmctl.runtime.process import Process

TERM_SECONDS = 5.0
"""How long QEMU may take to flush its disks and go, once told to."""
KILL_SECONDS = 5.0
"""How long the kernel may take to clear a killed process away."""


class Rung(StrEnum):
    """A step of the stop ladder, in order: each asks less of the guest than the one before."""

    AGENT = "agent"
    """The guest agent was asked to shut down."""
    ACPI = "acpi"
    """The power button was pressed."""
    ACPI_AGAIN = "acpi-again"
    """... once more: a guest that was still booting may have missed it."""
    QUIT = "quit"
    """QEMU was told to quit: the guest loses what it had not written, the disks stay consistent."""
    KILL = "kill"
    """SIGKILL."""


@dataclass(frozen=True, slots=True)
class StopResult:
    """How a machine was stopped: `rung` is the step that worked, `tried` those before with what came of them."""

    name: str
    rung: Rung
    seconds: float
    exit: Exit
    tried: tuple[tuple[Rung, str], ...] = ()


def find_running(name: str, *, roots: Roots | None = None) -> tuple[MachinePaths, Process]:
    """The running machine `name` and its QEMU. Raises NotFound, NotRunning. The caller closes the process."""
    roots = roots or store.find_roots()
    paths = roots.machine(name)
    store.sweep_one(paths)
    process = store.find_process(paths)
    if process is None:
        listing.find_machine(name, roots=roots)  # only now, so that what runs is in reach whatever became of its spec
        raise _not_running(paths, roots=roots)
    return paths, process


def open_journal(paths: MachinePaths, process: Process) -> Journal:
    """The journal of the run that `process` is. Raises NotRunning, StateError. The caller closes it."""
    journal = Journal(paths)
    if process.wait(0):  # had it ended before the journal was opened, that could be the next run's
        journal.close()
        raise _not_running(paths)
    return journal


def force_stop(name: str, *, roots: Roots | None = None) -> StopResult:
    """End QEMU by SIGTERM, which lets it flush its disks, and by SIGKILL if that does not help.

    Raises NotFound, NotRunning, StateError, DeadlineExceeded.
    """
    with _running(name, roots) as (paths, process, journal):
        began = time.monotonic()
        process.signal(SIGTERM)
        rung = Rung.QUIT
        if not process.wait(TERM_SECONDS):
            rung = Rung.KILL
            send_kill(process, journal, by="stop --force")
            check_killed(paths, process, has_ended=process.wait(KILL_SECONDS))
        store.end_helpers(paths)
        return StopResult(name, rung, time.monotonic() - began, history.find_exit(paths, journal))


def kill(name: str, *, roots: Roots | None = None) -> StopResult:
    """End QEMU by SIGKILL: a power cut. Raises NotFound, NotRunning, StateError, DeadlineExceeded."""
    with _running(name, roots) as (paths, process, journal):
        began = time.monotonic()
        send_kill(process, journal, by="kill")
        check_killed(paths, process, has_ended=process.wait(KILL_SECONDS))
        store.end_helpers(paths)
        return StopResult(name, Rung.KILL, time.monotonic() - began, history.find_exit(paths, journal))


def send_kill(process: Process, journal: Journal, *, by: str) -> None:
    """SIGKILL, with a note in the journal that it was us."""
    journal.note(KILL, {"by": f"kvmctl {by}", "pid": os.getpid()})
    process.signal(SIGKILL)


def check_killed(paths: MachinePaths, process: Process, *, has_ended: bool) -> None:
    """Raises DeadlineExceeded where a process was sent SIGKILL and has not ended."""
    if not has_ended:
        raise DeadlineExceeded(
            f"QEMU of {paths.name!r} (process {process.pid}) did not die within {KILL_SECONDS:.0f} s of SIGKILL",
            hint="It hangs in the kernel, as on a dead network file system: see /proc/PID/stack.",
        )


@contextmanager
def _running(name: str, roots: Roots | None) -> Iterator[tuple[MachinePaths, Process, Journal]]:
    with ExitStack() as stack:
        paths, process = find_running(name, roots=roots)
        stack.enter_context(process)
        yield paths, process, stack.enter_context(open_journal(paths, process))


def _not_running(paths: MachinePaths, *, roots: Roots | None = None) -> NotRunning:
    if store.is_alive(paths) and store.read_tether(paths)[0] is not None:
        return being_started(paths)
    command = listing.how_to_start(paths.name, roots or store.find_roots())
    return NotRunning(f"machine {paths.name!r} is not running", hint=f"Start it: {command}")


def being_started(paths: MachinePaths) -> NotRunning:
    """The error for a machine that somebody is about to start."""
    pid, _ = store.read_tether(paths)
    return NotRunning(f"machine {paths.name!r} is just being started by process {pid}", hint="Try again.")
