"""What has to do with every fork before its QEMU runs, whichever way it is brought up then. No asyncio.

`kvmctl.runtime.raising` brings forks up that somebody holds, or many at once; `kvmctl.runtime.quickfork` the one of a
plain ``kvmctl fork``.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Final

from kvmctl.errors import AlreadyRunning, HostError, StateError
from kvmctl.guest.renewal import SEED_BYTES, Renewal
from kvmctl.plan.captive import tie
from kvmctl.plan.layers import CopyImage
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.plan.placing import place
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import deferred, definitions, store, unfinished
from kvmctl.runtime.begin import Beginning, begin
from kvmctl.runtime.journal import Journal
from kvmctl.runtime.template_record import Record, load_record

FORKED: Final = "KVMCTL_FORKED"
"""kvmctl's own event in a fork's journal: what its guest was given, before anybody got to see the fork."""
MEMORY: Final = 40 << 20
"""Bytes that a fork takes for itself, at least: what QEMU writes, and what its guest does at once."""


def held(paths: TemplatePaths) -> ExitStack:
    """The template, which nobody removes meanwhile. Raises NotFound, TemplateDamaged, Busy."""
    stack = ExitStack()
    try:
        stack.enter_context(unfinished.shared(paths))
    except FileNotFoundError:
        load_record(paths)
        raise deferred.unknown_template(paths) from None
    return stack


def check_free(name: str, roots: Roots) -> None:
    """Raises AlreadyRunning where there is a machine of that name, whatever it does."""
    paths = roots.machine(name, ephemeral=True)
    if store.is_alive(paths):
        raise store.already_running(paths)
    if definitions.is_defined(name, roots) or os.path.lexists(roots.machine(name).state):
        raise AlreadyRunning(f"there is a machine {name!r}", hint=f"Choose another name, or: kvmctl rm {name}")


def check_room(plan: Plan, roots: Roots, *, count: int) -> None:
    """Raises HostError where the host has not the memory for `count` forks, StateError where it has not the space."""
    memory = count * MEMORY
    if memory > _unused_memory() // 2 and memory > (free := deferred.available_memory()):
        raise HostError(
            f"{count} forks take at least {memory >> 20} MiB of memory, and {free >> 20} MiB are free",
            hint="Fork fewer, or free some: see `free -h`.",
        )
    needed = count * sum(os.stat(step.source).st_size for step in plan.steps if isinstance(step, CopyImage))
    room = os.statvfs(_existing(roots.state))
    if needed > room.f_bavail * room.f_frsize:
        raise StateError(
            f"the disks of {count} forks take at least {needed >> 10} KiB, and {roots.state!r} has not that much left",
            hint="Fork fewer, or free some space.",
        )


def _unused_memory() -> int:
    """Bytes that nobody uses for anything, not even as a cache: where that is plenty, nobody needs a closer look."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _existing(directory: str) -> str:
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    return directory


def begin_fork(record: Record, paths: MachinePaths, *, is_captive: bool) -> Beginning:
    """Start the QEMU of a fork whose template is held. Raises what `kvmctl.runtime.begin.begin` does."""
    plan = place(record.plan, paths, uuid=_random_uuid())
    if plan.after_renewal:
        plan = deferred.address(plan)
    return begin(tie(plan, record.tie) if is_captive else plan, paths, is_captive=is_captive)


def _random_uuid() -> str:
    """A UUID of version 4 (RFC 9562, section 5.4). The module that makes them asks the platform for a lot first."""
    data = bytearray(os.urandom(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def renewal(hostname: str = "") -> Renewal:
    """Fresh bytes, the time of now, and `hostname`."""
    return Renewal(time.time_ns(), os.urandom(SEED_BYTES), hostname)


def note_forked(beginning: Beginning, *, is_renewed: bool, hostname: str = "") -> None:
    """Write into a fork's journal what its guest was given."""
    given = ["random", "clock", *(["hostname"] if hostname else [])] if is_renewed else []
    with Journal(beginning.paths) as journal:
        journal.note(FORKED, {"template": beginning.plan.template, "renewed": given})
