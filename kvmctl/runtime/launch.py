"""Getting a running machine from a spec: `launch` one that ends with us, `start` one that goes on."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kvmctl.plan.paths import Roots
from kvmctl.runtime import definitions, store
from kvmctl.runtime import start as starting
from kvmctl.runtime.logout import warn_of_logout
from kvmctl.runtime.prepare import load_machine, name_of, prepare
from kvmctl.runtime.vm import Vm
from kvmctl.spec.machine import Machine


@asynccontextmanager
async def launch(
    machine: Machine | str | os.PathLike[str], *, name: str | None = None, roots: Roots | None = None
) -> AsyncIterator[Vm]:
    """Run `machine`, a spec, or the name or file of one, for as long as the context lasts.

    It is given a name of its own, so that any number of one spec may run at once, unless `name` says otherwise. It
    ends with this process, whatever ends that, and nothing of it is left: of a thread with an event loop of its own,
    it ends with the thread. The name of an image stands for a machine of it; one that is missing is told by
    ImageMissing, before anything is made, and `kvmctl.pull_image` gets it.

    Raises SpecError and NotFound for what is asked; HostError, Busy and ImageError for what is not to be had here;
    AlreadyRunning where `name` is taken; LaunchFailed, QmpError and DeadlineExceeded for a QEMU that does not come up;
    StateError.
    """
    loaded = load_machine(machine, roots=roots)
    unique = f"{name_of(machine, loaded)[:57]}-{secrets.token_hex(3)}" if name is None else name
    prepared = prepare(loaded, name=unique, is_captive=True, roots=roots)
    async with starting.run_plan(prepared.plan, prepared.paths) as vm:
        yield vm


async def start(
    machine: Machine | str | os.PathLike[str], *, name: str | None = None, roots: Roots | None = None
) -> Vm:
    """Start `machine`, a spec, or the name or file of one; it goes on when this process ends.

    Raises AlreadyRunning, and what `launch` raises.
    """
    roots = roots or store.find_roots()
    prepared = prepare(machine, name=name, roots=roots)
    plan = warn_of_logout(prepared.plan, roots)
    is_defined = definitions.is_defined(plan.name, roots)
    return await starting.start_plan(plan, prepared.paths, is_defined=is_defined)
