"""What a guest is told, for people to look at and for ``kvmctl validate`` to check. Nothing is made."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kvmctl.errors import NotFound
from kvmctl.plan.guest import TellGuest, Way
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import Roots
from kvmctl.runtime import definitions, firstboot, specs, store
from kvmctl.runtime.attach import read_plan
from kvmctl.runtime.prepare import prepare
from kvmctl.spec.machine import Machine


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """What the guest of the machine `name` is given, its secrets hidden: the contents of files by name."""

    name: str
    way: Way
    files: dict[str, bytes]


def guest_files(machine: Machine | str | os.PathLike[str], *, roots: Roots | None = None) -> GuestFiles:
    """What the guest of `machine`, a spec, or the name or file of one, is given when it starts.

    Raises NotFound where the spec says nothing of its guest, SpecError with everything that is wrong with the files
    that it names.
    """
    roots = roots or store.find_roots()
    plan = _find_plan(machine, roots)
    step = _find_step(plan)
    if step is None:
        hint = "Say it in a [guest] table of the spec; an empty one gives it a user with your own ssh keys."
        raise NotFound(f"the spec of {plan.name!r} says nothing of its guest", hint=hint)
    return GuestFiles(plan.name, step.first_boot.way, firstboot.shown(step))


def check_guest(plan: Plan) -> None:
    """Raises SpecError for the files that are to tell the guest, HostError for a secret that is not there."""
    step = _find_step(plan)
    if step is not None:
        firstboot.check_guest(step)


def _find_plan(machine: Machine | str | os.PathLike[str], roots: Roots) -> Plan:
    """The plan of the next start; of a machine that has no spec of its own, that of its last."""
    if not isinstance(machine, Machine) and (name := specs.find_name(os.fspath(machine))) is not None:
        paths = roots.machine(name)
        if os.path.exists(paths.plan) and not definitions.is_defined(name, roots):
            return read_plan(paths)
    return prepare(machine, roots=roots, remember=False).plan


def _find_step(plan: Plan) -> TellGuest | None:
    return next((step for step in plan.steps if isinstance(step, TellGuest)), None)
