"""What a template is made of: all of it is decided, and on record, before anything is booted."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from kvmctl.compile import compile_plan
from kvmctl.errors import KvmctlError
from kvmctl.host.binary import identify
from kvmctl.plan import card
from kvmctl.plan.captive import Tie
from kvmctl.plan.card import Card
from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.fork import Frozen
from kvmctl.plan.guest import TellGuest
from kvmctl.plan.model import CreateOverlay, Input, Plan
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.plan.share import InputDirectory
from kvmctl.plan.template import template_plan
from kvmctl.runtime import deferred
from kvmctl.runtime.digests import digest
from kvmctl.runtime.firstboot import told
from kvmctl.runtime.prepare import find_tie, look_at_host, look_at_qemu
from kvmctl.runtime.template_record import Source, host_cpu, verified_inputs
from kvmctl.runtime.waiting import Condition, parse_guest_condition
from kvmctl.spec.machine import Machine


@dataclass(frozen=True, slots=True)
class Making:
    """What is to be made, decided."""

    plan: Plan
    qemu: QemuFacts
    tie: Tie
    where: Frozen
    until: Condition
    source: Source
    keys: dict[str, str]
    cards: tuple[Card, ...]
    """Left out of `plan`, for each fork has them of its own."""


def decide(name: str, machine: Machine, *, until: str | None, run: tuple[str, ...], roots: Roots) -> Making:
    """Look at the host, compile, and find all that the template is made of. Raises SpecError, HostError."""
    made, final = roots.unfinished_template(name), roots.template(name)
    called = f"{name[:57]}-{secrets.token_hex(3)}"
    booted = MachinePaths(called, run=roots.machine(called).run, state=made.directory, images=roots.images)
    host, qemu = look_at_host(machine, roots=roots), look_at_qemu(machine, roots)
    with deferred.judged_start():
        plan = compile_plan(machine, host=host, qemu=qemu, paths=booted, name=name)
    plan = template_plan(plan, machine=booted, template=made, generation_id="vmgenid" in qemu.devices)
    plan, cards = card.unplug(plan)
    awaited = parse_guest_condition(until) if until is not None else _default_until(plan)
    keys = {item.path: item.key for item in plan.inputs if _is_read(item)}
    keys |= {deferred.image_file(step): step.key for step in plan.steps if isinstance(step, CreateOverlay)}
    source = Source(
        spec={key: value for key, value in plan.spec.items() if key != "name"},
        inputs=_digests(keys, final.name, roots),
        qemu=qemu.path,
        qemu_identity=identify(qemu.path, env=os.environ),
        qemu_version=qemu.version_text,
        machine_type=plan.machine_type,
        cpu=host_cpu(plan.accel),
        until=str(awaited),
        commands=run,
        told={key: digest for step in plan.steps if isinstance(step, TellGuest) for key, digest in told(step).items()},
    )
    return Making(plan, qemu, find_tie(host, qemu), Frozen(booted, made, final), awaited, source, keys, cards)


def _default_until(plan: Plan) -> Condition:
    if plan.guest.agent is None:
        raise KvmctlError(
            f"machine {plan.name!r} has no channel to a guest agent to wait for", hint="Say how: --until console:REGEX"
        )
    return Condition("agent")


def _is_read(item: Input | InputDirectory) -> bool:
    """Whether it is a file whose contents the machine is made of."""
    with suppress(OSError):
        return isinstance(item, Input) and not item.writable and stat.S_ISREG(os.stat(item.path).st_mode)
    return False


def _digests(keys: dict[str, str], name: str, roots: Roots) -> dict[str, str]:
    """The digests of all that is read; those that a template of that name has, where nothing was touched since."""
    known: dict[str, str] = {}
    with suppress(KvmctlError):
        known = dict(verified_inputs(roots.template(name)))
    return {path: known.get(path) or digest(path) for path in sorted(keys)}


def differences(old: Source, new: Source) -> Iterator[str]:
    """What one template was made of and another would not be, a line each."""
    for key in sorted({*old.spec, *new.spec}):
        if old.spec.get(key) != new.spec.get(key):
            yield f"  {key} is another one"
    for path in sorted({*old.inputs, *new.inputs}):
        if old.inputs.get(path) != new.inputs.get(path):
            yield f"  {path!r} is another one"
    for key in sorted({*old.told, *new.told}):
        if (digest := new.told.get(key, "")) is not None and digest != old.told.get(key, ""):
            yield f"  what {key} says is another one"
    if (old.qemu, old.qemu_identity) != (new.qemu, new.qemu_identity):
        yield f"  QEMU was {old.qemu!r} {old.qemu_version}, and is {new.qemu!r} {new.qemu_version}"
    for field in ("machine_type", "cpu", "until", "commands"):
        if getattr(old, field) != getattr(new, field):
            yield f"  {field.replace('_', ' ')} was {getattr(old, field)!r}, and is {getattr(new, field)!r}"
