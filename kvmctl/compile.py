"""From a machine and what is known of host and QEMU to a plan: pure, deterministic, and with every problem at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import get_args

from kvmctl.errors import KvmUnavailable, Problem, SpecError
from kvmctl.plan.facts import HostFacts, MachineType, QemuFacts, Verdict
from kvmctl.plan.features import Feature
from kvmctl.plan.model import Guest, Plan
from kvmctl.plan.option import Option
from kvmctl.plan.paths import NAME_ALLOWED, MachinePaths, is_name
from kvmctl.spec import boot, clock, cpu, credentials, devices, firmware, firstboot, memory, process, smbios
from kvmctl.spec.advice import warnings
from kvmctl.spec.checks import absent, clashes, taken_twice
from kvmctl.spec.context import Context, Lowered, Part, Platform, join
from kvmctl.spec.devices import share
from kvmctl.spec.doubt import NONE, Doubt
from kvmctl.spec.machine import Machine
from kvmctl.spec.model import why
from kvmctl.spec.place import place
from kvmctl.spec.reading import Reading
from kvmctl.spec.target import choose, find_machine_type, platform_of
from kvmctl.spec.whole import head, spares, tail, uuid_of


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
    kind = find_machine_type(machine.machine, qemu, pinned=pinned)
    verdict, no_kvm = choose(machine.accel, host, qemu)
    called = name or machine.name
    if isinstance(kind, MachineType):
        ctx = _context(machine, called, kind=kind, verdict=verdict, host=host, qemu=qemu, paths=paths)
        whole = _assemble(machine, ctx)
    if isinstance(kind, Problem) or whole.problems or any(_name_problems(name)):
        reading = Reading(machine.source, machine)
        problems = find_problems(reading, host=host, qemu=qemu, paths=paths, name=name, pinned=pinned)
        raise SpecError(machine.source, problems)
    if no_kvm:
        hint = "accel = 'auto' runs it without; kvmctl doctor says how to get KVM"
        raise KvmUnavailable(f"'{called}' asks for KVM, and it can't be used here", detail=no_kvm, hint=hint)
    return _plan(machine, ctx, whole, verdict=verdict)


def find_problems(
    reading: Reading,
    *,
    host: HostFacts,
    qemu: QemuFacts,
    paths: MachinePaths,
    name: str | None = None,
    pinned: str | None = None,
) -> tuple[Problem, ...]:
    """Everything that is wrong with a spec, by itself and on this host with this QEMU.

    What is in doubt stands in the machine for something else, as a machine type does that does not exist. Told is only
    what is wrong whatever that was meant to be.
    """
    machine, doubt = reading.machine, reading.doubt
    if machine is None or doubt.covers("qemu"):
        return reading.problems
    found = find_machine_type(machine.machine, qemu, pinned=pinned)
    no_kvm = choose(machine.accel, host, qemu)[1]
    context = partial(_context, machine, name or machine.name, host=host, qemu=qemu, paths=paths)
    worlds = [
        _assemble(machine, context(kind=kind, verdict=verdict), doubt=doubt).problems
        for kind, verdict in _worlds(machine, found, host=host, qemu=qemu, doubt=doubt)
    ]
    here = (
        *((Problem("accel", no_kvm, "'kvm'"),) if no_kvm else ()),
        *_name_problems(name),
        *((found,) if isinstance(found, Problem) else ()),
        *(problem for world in worlds[:1] for problem in world if all(problem in others for others in worlds)),
    )
    return tuple(dict.fromkeys((*reading.problems, *(problem for problem in here if not doubt.touches(problem)))))


def _worlds(
    machine: Machine, found: MachineType | Problem, *, host: HostFacts, qemu: QemuFacts, doubt: Doubt
) -> Iterator[tuple[MachineType, Verdict]]:
    """Everything that the machine may be meant to run on."""
    verdict, _ = choose(machine.accel, host, qemu)
    is_known = isinstance(found, MachineType) and not doubt.covers("machine")
    kinds = [found] if is_known else [find_machine_type(platform, qemu) for platform in get_args(Platform)]
    verdicts = [verdict]
    if doubt.covers("accel"):
        verdicts = [replace(verdict, accel="kvm"), replace(verdict, accel="tcg")]
    yield from ((kind, each) for kind, each in product(kinds, verdicts) if isinstance(kind, MachineType))


def _name_problems(name: str | None) -> Iterator[Problem]:
    """A name that comes from elsewhere than the spec is looked at as closely."""
    if name is not None and not is_name(name):
        yield Problem("name", "is not a machine's name", repr(name), NAME_ALLOWED)


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


def _assemble(machine: Machine, ctx: Context, *, doubt: Doubt = NONE) -> Lowered:
    """Every section lowered, every device in its place, and the whole looked over.

    A device in `doubt` gets no place: nobody knows which kind of place it would take from others.
    """
    body = join(_sections(machine, ctx))
    shared = _by_id(body.shared)
    parts = (*(item for item in shared if isinstance(item, Part)), *body.parts)
    certain = [part for part in parts if not doubt.covers(part.key)]
    placed, homeless = place(certain, platform=ctx.platform, acpi=ctx.acpi)
    options = (
        *head(machine, ctx, body),
        *(item for item in shared if isinstance(item, Option)),
        *body.options,
        *placed,
        *(spares(machine.pci) if ctx.platform == "q35" else ()),
        *tail(machine, ctx),
    )
    wrong = (*body.problems, *homeless, *absent(parts, ctx), *_unconfined(machine, ctx), *_portless(machine, ctx))
    # What is there in part only, or stands for something else, has clashes of its own.
    is_whole = not wrong and doubt == NONE
    problems = (*wrong, *(clashes(options, body) if is_whole else ()), *taken_twice(body))
    return replace(body, options=options, problems=problems)


def _sections(machine: Machine, ctx: Context) -> Iterator[Lowered]:
    yield cpu.lower(machine.cpu, ctx, cpus_why=why(machine, "cpus", "cpus", default="one is what every guest can use"))
    yield memory.lower(machine.memory, ctx)
    has_kernel, has_screen = machine.boot.kernel is not None, machine.video.model_on(ctx) != "none"
    yield firmware.lower(machine.firmware, ctx, has_kernel=has_kernel, has_screen=has_screen)
    yield boot.lower(machine.boot)
    yield clock.lower(machine.clock, ctx)
    yield smbios.lower(machine.smbios, ctx)
    yield credentials.lower(machine.credentials, ctx)
    mounts = share.guest_mounts(machine.shares, ctx)
    yield (told := firstboot.lower_steps(machine, ctx, uuid=uuid_of(machine, ctx.name), mounts=mounts))
    yield devices.lower(machine, ctx)
    yield firstboot.lower_devices(machine, ctx, told)
    yield process.lower_monitors(ctx)


def _by_id(shared: Iterable[Option | Part]) -> tuple[Option | Part, ...]:
    """What several asked for, once."""
    found: dict[object, Option | Part] = {}
    for item in shared:
        found.setdefault(item.body["id"], item)
    return tuple(found.values())


def _portless(machine: Machine, ctx: Context) -> Iterator[Problem]:
    if machine.pci.spare_root_ports and ctx.platform != "q35":
        count, way_out = str(machine.pci.spare_root_ports), "machine = 'q35', or leave it out"
        yield Problem("pci.spare_root_ports", f"{ctx.platform} has no root ports", count, way_out)


def _unconfined(machine: Machine, ctx: Context) -> Iterator[Problem]:
    if machine.gives("sandbox") and machine.sandbox and Feature.SANDBOX not in ctx.qemu.features:
        program = f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path})"
        yield Problem("sandbox", f"{program} was built without seccomp", "true", "false, or another QEMU")


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
        warnings=(*warnings(machine, ctx, verdict=verdict), *whole.warnings),
        spec=machine.model_dump(mode="json"),
    )
