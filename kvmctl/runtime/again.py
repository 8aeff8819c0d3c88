"""A machine that has ended is booted again, from the disks that it had: the second half of a power cut.

Its run directory is its own all the while. A captive machine's tether is held by this process from its first start on,
so that nobody can take its name; one that goes on without us is claimed as for any start, but for its disks, which are
kept. A fork's disks lie over those of its template, which nothing holds while no QEMU of its forks lives: so it is held
and looked at here as it is for a fork.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from kvmctl.errors import TemplateMisfit
from kvmctl.plan.cold import cold_plan
from kvmctl.plan.layers import SharedLock
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import store
from kvmctl.runtime.begin import Beginning, begin_claimed
from kvmctl.runtime.forking import held
from kvmctl.runtime.handshake import let_go
from kvmctl.runtime.journal import Journal
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.store import Claim
from kvmctl.runtime.template_record import check, load_record


class Again(NamedTuple):
    """A machine that runs again."""

    beginning: Beginning
    journal: Journal
    monitor: Monitor | None
    """The private one, of a captive machine."""


async def boot_again(plan: Plan, paths: MachinePaths, claim: Claim | None) -> Again:
    """Boot a machine that has ended, with the `claim` that is still held where it is captive; see `Handle.start`."""
    beginning = _begin(plan, paths, claim)
    return Again(beginning, *await let_go(beginning))


def _begin(plan: Plan, paths: MachinePaths, claim: Claim | None) -> Beginning:
    with _template_held(plan, paths):
        if claim is not None and claim.is_captive:
            claim.take_lock_again()
        else:
            claim = store.claim(_paths_of(plan, paths), is_captive=False, is_again=True)
        return begin_claimed(cold_plan(plan, claim.paths), claim)


def _paths_of(plan: Plan, paths: MachinePaths) -> MachinePaths:
    """The machine's own paths: to who attaches to it by its name, a fork looks like any machine."""
    if plan.template is None:
        return paths
    return paths._replace(state=os.path.join(paths.run, "state"), is_ephemeral=True)


@contextmanager
def _template_held(plan: Plan, paths: MachinePaths) -> Iterator[None]:
    """The template of a fork, which nobody removes meanwhile, and which is still the one that it was made of.

    Raises NotFound, Busy, TemplateDamaged, TemplateMisfit, and NotRunning where nothing is left of the fork.
    """
    with ExitStack() as stack:
        for source in plan.fds:
            if isinstance(source, SharedLock):
                template = TemplatePaths(str(plan.template), os.path.dirname(source.path))
                stack.enter_context(held(template))
                _check_template(template, paths)
        yield


def _check_template(template: TemplatePaths, paths: MachinePaths) -> None:
    if not os.path.exists(paths.plan):
        raise store.nothing_left(paths)
    record = load_record(template)
    check(template, record)
    if record.created > os.stat(paths.plan).st_mtime:
        raise TemplateMisfit(
            f"template {template.name!r} was made anew since, and the disks of {paths.name!r} lie over the old one",
            hint="Fork it again.",
        )
