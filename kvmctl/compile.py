"""From a machine and what is known of host and QEMU to a plan: pure, deterministic, and with every problem at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import sha1
from itertools import pairwise
from typing import Final

from kvmctl.errors import KvmUnavailable, Problem, SpecError
from kvmctl.plan.facts import HostFacts, MachineType, QemuFacts, Verdict
from kvmctl.plan.features import Feature
from kvmctl.plan.model import Guest, Plan
from kvmctl.plan.option import Option, Value, bare, keyval, keyvals, text
from kvmctl.plan.paths import BUILTIN_TINY, NAME_ALLOWED, MachinePaths, is_name
from kvmctl.spec import boot, clock, cpu, credentials, devices, firmware, firstboot, memory, process, smbios
from kvmctl.spec.boot import Boot
from kvmctl.spec.checks import clashes
from kvmctl.spec.context import Context, Lowered, Part, join
from kvmctl.spec.devices import share
from kvmctl.spec.machine import Machine, Pci
from kvmctl.spec.model import why
from kvmctl.spec.place import place, spare_ports
from kvmctl.spec.target import choose, find_machine_type, platform_of
from kvmctl.spec.units import MIB, size_text

_NAMESPACE: Final = bytes.fromhex("9a05ae073ba4cfb6d157e6148cd852ea")
"""kvmctl's own namespace for UUIDs made from names (RFC 9562, version 5)."""
_UNKNOWN: Final = MachineType("pc-q35-0.0", None, 0)
"""Stands in for a machine type that does not exist, so that the spec's other problems are found as well."""


def compile_plan(
    machine: Machine,
    *,
    host: HostFacts,
    qemu: QemuFacts,
    paths: MachinePaths,
    name: str | None = None,
    pinned: str | None = None,
) -> Plan:
    """The plan of `machine` on this host with this QEMU; `name` outranks the spec's own.

    `pinned` is the machine type it was first started as, which an alias in the spec then stays.

    Raises SpecError with every problem at once, and KvmUnavailable when all that is wrong is that KVM was asked for
    and can't be had.
    """
    found = find_machine_type(machine.machine, qemu, pinned=pinned)
    kind = found if isinstance(found, MachineType) else _UNKNOWN
    verdict, no_kvm = choose(machine.accel, host, qemu)
    called = name or machine.name
    ctx = _context(machine, called, kind=kind, verdict=verdict, host=host, qemu=qemu, paths=paths)
    whole = _assemble(machine, ctx)
    problems = (*_name_problems(name), *((found,) if isinstance(found, Problem) else ()), *whole.problems)
    if problems:
        accel = (Problem("accel", no_kvm, "'kvm'"),) if no_kvm else ()
        raise SpecError(machine.source, tuple(dict.fromkeys((*accel, *problems))))
    if no_kvm:
        hint = "accel = 'auto' runs it without; kvmctl doctor says how to get KVM"
        raise KvmUnavailable(f"'{called}' asks for KVM, and it can't be used here", detail=no_kvm, hint=hint)
    return _plan(machine, ctx, whole, verdict=verdict)


def _name_problems(name: str | None) -> Iterator[Problem]:
    """A name that comes from elsewhere than the spec is looked at as closely."""
    if name is not None and not is_name(name):
        yield Problem("name", "is not a machine's name", repr(name), NAME_ALLOWED)


def derived_uuid(name: str) -> str:
    """The UUID of a machine whose spec gives none: always the same one for a name."""
    digest = bytearray(sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    digits = digest.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def uuid_of(machine: Machine, name: str) -> str:
    """The UUID of `machine`, called `name`."""
    return machine.uuid or derived_uuid(name)


def _context(
    machine: Machine,
    name: str,
    *,
    kind: MachineType,
    verdict: Verdict,
    host: HostFacts,
    qemu: QemuFacts,
    paths: MachinePaths,
) -> Context:
    private_by = memory.private_by(machine.memory)
    return Context(
        name=name,
        platform=platform_of(kind.name) or "q35",
        machine_type=kind.name,
        accel=verdict.accel,
        accel_reason=verdict.reason,
        host=host,
        qemu=qemu,
        paths=paths,
        acpi=machine.acpi,
        cpus=machine.cpus,
        boot_indexes=boot.boot_indexes(machine.boot, machine),
        has_vnc=machine.vnc is not None,
        has_inputs=machine.inputs is not None,
        has_serial=bool(machine.serials),
        agent_on_serial=machine.agent is not None and machine.agent.transport == "serial",
        private_by=private_by,
        mapped_for=share.mapped_for(machine.shares, host, qemu, private_by=private_by),
    )


def _assemble(machine: Machine, ctx: Context) -> Lowered:
    """Every section lowered, every device in its place, and the whole looked over."""
    body = join(_sections(machine, ctx))
    shared = _by_id(body.shared)
    parts = (*(item for item in shared if isinstance(item, Part)), *body.parts)
    placed, homeless = place(parts, platform=ctx.platform, acpi=ctx.acpi)
    options = (
        *_head(machine, ctx, body),
        *(item for item in shared if isinstance(item, Option)),
        *body.options,
        *placed,
        *(_spares(machine.pci) if ctx.platform == "q35" else ()),
        *_tail(machine, ctx),
    )
    problems = (*body.problems, *homeless, *_absent(parts, ctx), *_unconfined(machine, ctx))
    return replace(body, options=options, problems=problems or tuple(clashes(options, body)))


def _sections(machine: Machine, ctx: Context) -> Iterator[Lowered]:
    yield cpu.lower(machine.cpu, ctx, cpus_why=why(machine, "cpus", "cpus", default="one is what every guest can use"))
    yield memory.lower(machine.memory, ctx, is_given=machine.gives("memory"))
    has_kernel, has_screen = machine.boot.kernel is not None, machine.video.model_on(ctx) != "none"
    yield firmware.lower(machine.firmware, ctx, has_kernel=has_kernel, has_screen=has_screen)
    yield boot.lower(machine.boot)
    yield clock.lower(machine.clock, ctx, is_given=machine.gives("clock"))
    yield smbios.lower(machine.smbios, ctx)
    yield credentials.lower(machine.credentials, ctx)
    mounts = share.guest_mounts(machine.shares, ctx)
    yield (told := firstboot.lower_steps(machine, ctx, uuid=uuid_of(machine, ctx.name), mounts=mounts))
    yield devices.lower(machine, ctx)
    yield firstboot.lower_devices(machine, ctx, told)
    yield process.lower_monitors(ctx)


def _head(machine: Machine, ctx: Context, body: Lowered) -> Iterator[Option]:
    """Who the machine is and what it runs on."""
    yield from process.first()
    yield keyval("name", guest=ctx.name, debug_threads=True, why=_name_why(machine, ctx))
    yield text(
        "uuid",
        uuid_of(machine, ctx.name),
        why=why(machine, "uuid", "uuid", default="derived from the name, so always the same"),
    )
    yield keyvals("machine", ctx.machine_type, _machine_body(machine, body), why=_machine_why(machine))
    accel = why(machine, "accel", "accel", default=ctx.accel_reason)
    yield bare("enable-kvm", why=accel) if ctx.accel == "kvm" else keyval("accel", "tcg", why=accel)
    if ctx.platform == "microvm":
        # Its buses speak virtio 0.9 unless told, which graphics and input devices and their drivers never learnt.
        today = "default: today's virtio, as on other machines"
        yield keyval("global", driver="virtio-mmio", property="force-legacy", value=False, why=today)


def _name_why(machine: Machine, ctx: Context) -> str:
    if ctx.name != machine.name:
        return "default: the name it is started under"
    return "default: the file's name" if machine.name == machine.stem else "name"


def _machine_body(machine: Machine, body: Lowered) -> dict[str, Value]:
    # A core dump of a QEMU that crashed is not the place for the guest's memory.
    return {"usb": False, "acpi": machine.acpi, "dump-guest-core": False, **dict(body.machine)}


def _machine_why(machine: Machine) -> str:
    return why(machine, "machine", "machine", default="q35, pinned to the version that is started first")


def _tail(machine: Machine, ctx: Context) -> Iterator[Option]:
    """What happens at the end, how QEMU runs, and what kvmctl has no key for."""
    events: dict[str, Value] = {"reboot": machine.on_reboot, "shutdown": machine.on_poweroff, "panic": machine.on_crash}
    if machine.watchdog is not None:
        events["watchdog"] = machine.watchdog.action
    given = [key for key in ("on_reboot", "on_poweroff", "on_crash", "watchdog") if machine.gives(key)]
    yield keyvals("action", None, events, why=", ".join(given) or "default: a guest that is done ends its QEMU")
    reason = why(machine, "sandbox", "sandbox", default="QEMU needs to start no program and gain no privilege")
    yield from process.last(sandbox=machine.sandbox and Feature.SANDBOX in ctx.qemu.features, sandbox_why=reason)
    yield from _extra(machine.extra_args)


def _extra(arguments: tuple[str, ...]) -> Iterator[Option]:
    """Each option with the argument that follows it, if one does."""
    words = [*arguments, "-"]
    for index, (word, after) in enumerate(pairwise(words)):
        if word.startswith("-"):
            key = f"extra_args[{index}]"
            yield bare(word[1:], why=key) if after.startswith("-") else text(word[1:], after, why=key)


def _spares(pci: Pci) -> tuple[Option, ...]:
    reason = why(pci, "spare_root_ports", "pci.spare_root_ports", default="for what is plugged in while it runs")
    return spare_ports(pci.spare_root_ports, why=reason)


def _by_id(shared: Iterable[Option | Part]) -> tuple[Option | Part, ...]:
    """What several asked for, once."""
    found: dict[object, Option | Part] = {}
    for item in shared:
        found.setdefault(item.body["id"], item)
    return tuple(found.values())


def _unconfined(machine: Machine, ctx: Context) -> Iterator[Problem]:
    if machine.gives("sandbox") and machine.sandbox and Feature.SANDBOX not in ctx.qemu.features:
        program = f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path})"
        yield Problem("sandbox", f"{program} was built without seccomp", "true", "false, or another QEMU")


def _absent(parts: Iterable[Part], ctx: Context) -> Iterator[Problem]:
    """Devices that this QEMU can't make."""
    for part in parts:
        if part.driver not in ctx.qemu.devices:
            program = f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path})"
            yield Problem(
                part.key, f"{program} has no device '{part.driver}': built without it, or a module is missing"
            )


def _plan(machine: Machine, ctx: Context, whole: Lowered, *, verdict: Verdict) -> Plan:
    return Plan(
        name=ctx.name,
        uuid=uuid_of(machine, ctx.name),
        description=machine.description,
        source=machine.source,
        qemu=ctx.qemu.path,
        qemu_version=ctx.qemu.version_text,
        accel=verdict.accel,
        accel_reason=verdict.reason,
        machine_type=ctx.machine_type,
        cpus=machine.cpus,
        memory=machine.memory.size,
        options=whole.options,
        fds=whole.fds,
        helpers=whole.helpers,
        steps=whole.steps,
        inputs=whole.inputs,
        ports=whole.ports,
        before_run=whole.before_run,
        consoles=whole.consoles,
        disks=whole.disks,
        networks=whole.networks,
        shares=whole.shares,
        guest=Guest(
            acpi=machine.acpi,
            agent=machine.agent.transport if machine.agent else None,
            transfer=machine.agent is not None and machine.agent.has_transfer,
            resident=machine.agent is not None and machine.agent.has_resident,
            balloon=machine.balloon is not None,
            vnc=machine.vnc is not None,
            display=machine.video.model_on(ctx) != "none",
            user=firstboot.login_of(machine, ctx),
        ),
        warnings=(*_warnings(machine, ctx, verdict=verdict), *whole.warnings),
        spec=machine.model_dump(mode="json"),
    )


def _warnings(machine: Machine, ctx: Context, *, verdict: Verdict) -> Iterator[str]:
    if machine.accel == "auto" and verdict.accel == "tcg":
        yield f"runs under TCG, without KVM: {verdict.reason}"
    kind = next(item for item in ctx.qemu.machines if item.name == ctx.machine_type)
    if kind.deprecated:
        yield f"machine type {kind.name} is deprecated and will be gone from a later QEMU"
    if machine.sandbox and Feature.SANDBOX not in ctx.qemu.features:
        yield f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path}) was built without seccomp: it runs unconfined"
    if ctx.host.memory and machine.memory.size > ctx.host.memory:
        has, wants = size_text(ctx.host.memory // MIB * MIB), size_text(machine.memory.size)
        yield f"the guest may use {wants} of memory and the host has {has}"
    if _may_hang(machine.boot, ctx):
        yield (
            "Linux on a microvm under TCG sometimes hangs while it measures its clock: "
            "add tsc_early_khz=KHZ to boot.cmdline, or use machine = 'q35'"
        )


def _may_hang(boot: Boot, ctx: Context) -> bool:
    """A microvm has neither HPET nor PM timer, and under TCG the timer that is left is too coarse for some boots."""
    is_linux = boot.kernel not in {None, BUILTIN_TINY}
    is_told = "tsc_early_khz" in (boot.cmdline or "")
    return ctx.platform == "microvm" and ctx.accel == "tcg" and is_linux and not is_told
