"""Making a template: boot a machine, bring it to where its forks are to begin, freeze it.

It is made aside and renamed when it is whole. Made again of the same, it is left as it is: a template is known by all
that it was made of.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from kvmctl import files
from kvmctl.errors import CommandFailed, KvmctlError, NotFound, StateError, TemplateDamaged, TemplateMisfit
from kvmctl.guest import resident
from kvmctl.guest.reload import reload
from kvmctl.guest.renew import hush, install
from kvmctl.guest.resident import Resident
from kvmctl.guest.turn import Turn
from kvmctl.image import qemuimg
from kvmctl.plan.captive import tie
from kvmctl.plan.features import Feature
from kvmctl.plan.fork import boots_kernel, fork_plan, layers
from kvmctl.plan.model import FROZEN_PORT, RESIDENT_PORT, Plan
from kvmctl.plan.option import Form
from kvmctl.plan.paths import RESIDENT, Roots
from kvmctl.runtime import frozen, makers, store, template, unfinished
from kvmctl.runtime import start as starting
from kvmctl.runtime.decision import Making, decide, differences
from kvmctl.runtime.digests import digest
from kvmctl.runtime.events import derive
from kvmctl.runtime.fork import Template, load_template
from kvmctl.runtime.forking import renewal
from kvmctl.runtime.journal import read_events
from kvmctl.runtime.prepare import load_machine
from kvmctl.runtime.settling import settle, stir
from kvmctl.runtime.sockets import connect_unix
from kvmctl.runtime.template_record import Record, load_record
from kvmctl.runtime.vm import Vm
from kvmctl.runtime.waiting import Sightings, meet
from kvmctl.spec.machine import Machine

OnFailure: TypeAlias = Callable[[Vm], Awaitable[None]]
"""What is told of a machine that does not come to be frozen, while it is there to be looked at."""

_ROOM: Final = 64 << 20
"""Bytes of disk that a template takes besides its memory, at least."""
_TAIL: Final = 4096


@dataclass(frozen=True, slots=True)
class _Renewed:
    """How the guest of a fork is renewed: by a command, if at all, which may be waiting in it."""

    command: tuple[str, ...] | None = None
    waiting: Resident | None = None
    """The program that does it, where that waits in the guest."""


async def create_template(
    name: str,
    machine: Machine | str | os.PathLike[str],
    *,
    until: str | None = None,
    run: Sequence[str] = (),
    refresh: bool = False,
    patience: float | None = None,
    on_failure: OnFailure | None = None,
    roots: Roots | None = None,
) -> Template:
    """The template `name` of `machine`, a spec, or the name or file of one; made unless it is there already.

    The machine is booted, `until` is waited for (``agent``, or as `kvmctl wait --for` has it, in the guest), the
    shell commands `run` are run in its guest, and it is frozen. Raises SpecError where the machine has what can't be
    forked; TemplateMisfit where there is a template of that name that was made of something else, or does not fit any
    more, and TemplateDamaged where it is broken, unless `refresh` is asked for; Busy where it is in use;
    CommandFailed where a command fails; DeadlineExceeded where all that takes longer than `patience` seconds, with a
    verdict; and what running a machine raises. `on_failure` is awaited with the machine where it runs and does not come
    to be frozen, before it is ended: nothing of it is left afterwards. Whoever makes the same at the same time is
    waited for, and what they made is used.
    """
    roots = roots or store.find_roots()
    unfinished.sweep(roots)
    loaded = load_machine(machine, roots=roots)
    making = await asyncio.to_thread(decide, name, loaded, until=until, run=tuple(run), roots=roots)
    if not refresh and (found := _find_same(making, roots)):
        return found
    _check_space(making.plan, roots)
    with ExitStack() as stack:
        has_waited = await makers.claim(making.where.made, stack)
        if found := _find_made(making, roots, refresh=refresh, has_waited=has_waited):
            return found
        unfinished.check_free(making.where.final)
        renewed = await _boot_and_freeze(making, patience=patience, on_failure=on_failure)
        await asyncio.to_thread(_seal, making, renewed)
        unfinished.finish(making.where.made, making.where.final)
    found = load_template(name, roots=roots)
    found.is_new = True
    return found


def _find_made(making: Making, roots: Roots, *, refresh: bool, has_waited: bool) -> Template | None:
    """What somebody else has made of the same, by the time that it was our turn. Raises TemplateMisfit."""
    if not refresh:
        return _find_same(making, roots)
    if has_waited:
        with suppress(TemplateMisfit, TemplateDamaged):
            return _find_same(making, roots)
    return None


def _find_same(making: Making, roots: Roots) -> Template | None:
    """The template that is there already, if it was made of the same; None where there is none.

    Raises TemplateMisfit, TemplateDamaged.
    """
    final = making.where.final
    try:
        found = load_record(final)
    except NotFound:
        return None
    different = list(differences(found.source, making.source))
    if different:
        raise TemplateMisfit(
            f"template {final.name!r} was made of something else",
            detail="\n".join(different),
            hint="Choose another name, or make it anew: --refresh",
        )
    return load_template(final.name, roots=roots)


def _check_space(plan: Plan, roots: Roots) -> None:
    """A guest whose memory finds no room on the disk is killed in the middle of its work."""
    files.make_private_dir(roots.templates)
    room = os.statvfs(roots.templates)
    free, needed = room.f_bavail * room.f_frsize, plan.memory + _ROOM
    if free < needed:
        raise StateError(
            f"a template takes up to {needed >> 20} MiB, and {roots.templates!r} has {free >> 20} MiB left",
            hint="Free some space, give the machine less memory, or point KVMCTL_STATE_DIR elsewhere.",
        )


async def _boot_and_freeze(making: Making, *, patience: float | None, on_failure: OnFailure | None) -> _Renewed:
    """Run the machine to where it is frozen, and freeze it; how its guest is renewed."""
    seen = Sightings()
    doing = f"bring it to where it is frozen ({making.until})"
    async with (
        starting.run_plan(tie(making.plan, making.tie), making.where.booted) as vm,
        _told(vm, on_failure),
        vm.within(patience, doing, seen=seen),
    ):
        await meet(vm, making.until, seen=seen)
        for command in making.source.commands:
            await _run(vm, command)
        return await _freeze(vm, making)


@asynccontextmanager
async def _told(vm: Vm, on_failure: OnFailure | None) -> AsyncIterator[None]:
    """An error within is told while there is a machine to be looked at: it ends, and all of it goes, in a moment."""
    try:
        yield
    except KvmctlError:
        if on_failure is not None:
            await on_failure(vm)
        raise


async def _freeze(vm: Vm, making: Making) -> _Renewed:
    path = making.where.made.device_state
    if not _has_agent(vm):
        await frozen.freeze(vm, path, features=making.qemu.features)
        return _Renewed()
    async with Turn(vm.agent()) as turn, AsyncExitStack() as stack:
        await hush(turn)
        renewed = await _find_renewal(vm, turn, stack)
        await settle(vm, turn)
        if renewed.waiting is not None:
            await stir(renewed.waiting)
        await frozen.freeze(vm, path, features=making.qemu.features)
        return renewed


async def _find_renewal(vm: Vm, turn: Turn, stack: AsyncExitStack) -> _Renewed:
    """How the guest's forks are renewed; what waits for that in the guest is connected for as long as `stack` lasts."""
    connect = partial(connect_unix, vm.paths.resident)
    given = vm.plan.guest
    if given.resident and (waiting := await resident.find(connect, renewal=renewal())):
        stack.callback(waiting.close)
        return _Renewed((RESIDENT,), waiting)
    has_port = given.transfer or given.resident
    port = RESIDENT_PORT if given.resident else FROZEN_PORT
    if has_port and (found := await resident.install(turn, connect, port=port, renewal=renewal())):
        stack.callback(found[0].close)
        return _Renewed(found[1], found[0])
    return _Renewed(await install(turn, renewal()))


def _has_agent(vm: Vm) -> bool:
    """Whether there is an agent to be asked for anything: one on a serial port tells nobody."""
    return vm.plan.guest.agent == "serial" or derive(read_events(vm.paths)).agent_open


async def _run(vm: Vm, command: str) -> None:
    result = await vm.exec(["/bin/sh", "-c", command])
    if result.exit_code:
        output = (result.stdout + result.stderr)[-_TAIL:].decode(errors="replace")
        raise CommandFailed(f"{command!r} failed in the guest with status {result.exit_code}", detail=output.strip())


def _seal(making: Making, renewed: _Renewed) -> None:
    """Everything that makes a template of what was frozen: overlays, digests, the record. Raises StateError."""
    made = making.where.made
    program = qemuimg.find_qemu_img(making.plan.qemu)
    for layer in layers(making.plan, making.where):
        here = layer.path.replace(making.where.final.directory, made.directory, 1)
        size = qemuimg.virtual_size(program, here, image_format=layer.format)
        blank = made.blank(layer.node)
        files.make_private_dir(os.path.dirname(blank))
        qemuimg.create_layer(program, blank, backing=layer.path, backing_format=layer.format, size=size)
    is_reloaded = boots_kernel(making.plan) and _keep_kernel(making)
    own = list(template.used_files(made))
    for name in own:
        _close_off(os.path.join(made.directory, name), making)
    features = making.qemu.features
    plan = fork_plan(making.plan, where=making.where, features=features, cards=making.cards, is_reloaded=is_reloaded)
    record = Record(
        source=making.source,
        plan=plan,
        tie=making.tie,
        renew=renewed.command,
        files={name: digest(os.path.join(made.directory, name)) for name in own},
        keys=making.keys,
        created=time.time(),
        warnings=making.plan.warnings,
        is_resident=renewed.waiting is not None,
    )
    files.write_atomic(made.record, record.dumps().encode())


def _keep_kernel(making: Making) -> bool:
    """Write what stands for the kernel in forks, if it can be done with this one. Raises StateError."""
    texts = {option.flag: option.text for option in making.plan.options if option.form is Form.TEXT}
    kernel, initrd = (_read(texts[flag]) if flag in texts else b"" for flag in ("kernel", "initrd"))
    reloaded = reload(kernel, initrd, memory=making.plan.memory)
    if reloaded is not None:
        files.write_atomic(making.where.made.kernel, reloaded.kernel)
        files.write_atomic(making.where.made.initrd, reloaded.initrd)
    return reloaded is not None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise files.cannot("read", path, error) from error


def _close_off(path: str, making: Making) -> None:
    """On the disk, and read-only, where QEMU lets it be: without READONLY_MEMORY it opens the memory for writing."""
    is_opened_for_writing = path == making.where.made.memory and Feature.READONLY_MEMORY not in making.qemu.features
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.fchmod(descriptor, 0o600 if is_opened_for_writing else 0o400)
    finally:
        os.close(descriptor)
