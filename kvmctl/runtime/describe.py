"""All that is known of one machine: what its files say, and what QEMU says where it runs and answers."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from kvmctl.errors import KvmctlError, NotFound, NotRunning, StateError
from kvmctl.plan import preset
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import Roots
from kvmctl.runtime import listing, store
from kvmctl.runtime.attach import attach, read_plan
from kvmctl.runtime.diagnosis import diagnose
from kvmctl.runtime.helper_locks import HelperInfo, inspect_helpers
from kvmctl.runtime.journal import read_events
from kvmctl.runtime.listing import MachineInfo
from kvmctl.runtime.vm import Status
from kvmctl.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Description:
    """A machine with all there is to know of it."""

    machine: MachineInfo
    plan: Plan | None
    """What its present or last run was started from; None where it never ran, or not since its history."""
    status: Status | None
    """What QEMU said; None where it does not run, or did not answer."""
    silence: str
    """Why QEMU did not answer; empty where it did, or does not run."""
    helpers: tuple[HelperInfo, ...]
    """The programs that were started beside QEMU; in a machine that runs, one that does not live is missed."""
    spec: str | None
    """The file it is defined by."""
    run: str
    state: str


async def describe(name: str, *, roots: Roots | None = None) -> Description:
    """All that is known of machine `name`, or of the one that ``image:NAME`` was last started as.

    Raises NotFound; a QEMU that does not answer is described, not raised.
    """
    roots = roots or store.find_roots()
    name = _name_of(name, roots)
    machine = listing.find_machine(name, roots=roots)
    paths = roots.machine(name)
    plan, status, silence = None, None, ""
    with suppress(StateError):
        plan = read_plan(paths)
    try:
        async with attach(name, roots=roots) as vm:
            status = await vm.status()
    except NotRunning:
        pass
    except KvmctlError as error:
        silence = error.summary
    spec = roots.spec(name) if machine.is_defined else None
    helpers = inspect_helpers(plan) if plan else ()
    return Description(machine, plan, status, silence, helpers, spec, paths.run, paths.state)


def _name_of(reference: str, roots: Roots) -> str:
    image = preset.find_image(reference)
    if image is None:
        return reference
    with suppress(StateError):
        if read_plan(roots.machine(image)).source == reference:
            return image
    raise NotFound(
        f"the image {image!r} has not been started under its own name",
        hint=f"Start it: kvmctl start {reference}, or see what that would be: kvmctl argv {reference}",
    )


def find_verdict(name: str, *, roots: Roots | None = None) -> Verdict:
    """What became of machine `name` in its last run, or becomes of it in this one. Raises NotFound, StateError."""
    roots = roots or store.find_roots()
    machine = listing.find_machine(name, roots=roots)
    paths = roots.machine(name)
    if not os.path.exists(paths.journal):
        raise NotFound(f"machine {name!r} has not run yet", hint=f"Start it: kvmctl start {name}")
    return diagnose(read_plan(paths), paths, read_events(paths), end=machine.exit)
