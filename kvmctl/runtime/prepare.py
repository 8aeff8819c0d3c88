"""From a spec to a plan for this host: load, look, compile. Nothing is touched."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from kvmctl.compile import compile_plan, find_problems
from kvmctl.errors import KvmctlError, Problem, SpecError
from kvmctl.host.binary import identify
from kvmctl.host.firmware import load_firmwares
from kvmctl.host.identity import find_qemu
from kvmctl.host.kvm import probe
from kvmctl.host.qemu import binary_facts
from kvmctl.host.virtiofsd import probe_virtiofsd
from kvmctl.plan import preset
from kvmctl.plan.captive import Tie, tie
from kvmctl.plan.facts import HostFacts, QemuFacts
from kvmctl.plan.features import Feature
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import deferred, specs, store
from kvmctl.spec.firmware import FROM_DESCRIPTORS
from kvmctl.spec.load import read, read_file
from kvmctl.spec.machine import Machine
from kvmctl.spec.reading import Reading

_CAP_SETPCAP: Final = 8
_CAP_MKNOD: Final = 27
"""<linux/capability.h>"""

_known: Final[dict[tuple[str, str | None], QemuFacts]] = {}
"""The QEMUs that this process has looked at, by path and identity."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan and the paths it was made for."""

    plan: Plan
    paths: MachinePaths
    is_lasting: bool = True
    """The plan is good for the next start too; not where KVM or a virtiofsd was there and did not work: it may pass."""


def prepare(
    machine: Machine | str | os.PathLike[str],
    *,
    name: str | None = None,
    is_captive: bool = False,
    roots: Roots | None = None,
    remember: bool = True,
) -> Prepared:
    """The plan for `machine`, a spec, or the name or file of one, on this host.

    A captive machine ends with the process that starts it and keeps nothing. What a QEMU seen for the first time can do
    is kept for the next command unless `remember` is false. Raises SpecError, NotFound, HostError.
    """
    roots = roots or store.find_roots()
    reference = machine
    machine = load_machine(reference, roots=roots, remember=remember)
    name = name_of(reference, machine) if name is None else name
    paths = roots.machine(name, ephemeral=is_captive)
    host = look_at_host(machine, roots=roots, remember=remember)
    qemu = look_at_qemu(machine, roots, remember=remember)
    pinned = None if is_captive else specs.read_pin(paths)
    with deferred.judged_start():
        plan = compile_plan(machine, host=host, qemu=qemu, paths=paths, name=name, pinned=pinned)
    plan = confine(plan, host)
    return Prepared(tie(plan, find_tie(host, qemu)) if is_captive else plan, paths, is_lasting=_is_lasting(host))


def look_at_host(machine: Machine, *, roots: Roots, remember: bool = True) -> HostFacts:
    """What is known of this host that decides about `machine`."""
    host = probe()
    if names := {disk.image for disk in machine.disks if disk.image}:
        host = replace(host, images=deferred.image_facts(names, roots))
    if any(share.driver != "9p" for share in machine.shares):
        daemon = probe_virtiofsd(env=os.environ, cache=roots.qemu_cache, remember=remember)
        host = replace(host, virtiofsd=daemon)
    return host


def look_at_qemu(machine: Machine, roots: Roots, *, remember: bool = True) -> QemuFacts:
    """What the QEMU of `machine` can do: a binary that was looked at before, in this process, is only recognized."""
    path = find_qemu(machine.qemu, env=os.environ)
    identity = identify(path, env=os.environ)
    facts = _known.get((path, identity))
    if facts is None:
        facts = binary_facts(path, cache=roots.qemu_cache, env=os.environ, remember=remember)
        if identity is not None and remember:
            _known[path, identity] = facts
    return replace(facts, firmwares=load_firmwares(os.environ)) if machine.firmware in FROM_DESCRIPTORS else facts


def load_machine(
    machine: Machine | str | os.PathLike[str], *, roots: Roots | None = None, remember: bool = True
) -> Machine:
    """`machine` itself, or the spec of that name or in that file.

    Raises NotFound, and SpecError with everything that is wrong with the spec, on this host too.
    """
    if isinstance(machine, Machine):
        return machine
    spec = specs.find_spec(os.fspath(machine), roots=roots)
    is_preset = preset.find_image(spec) is not None
    reading = read(specs.read_text(spec), source=spec, base="/") if is_preset else read_file(spec)
    if reading.problems:
        name = specs.find_name(os.fspath(machine))
        problems = _problems_here(reading, name, roots=roots or store.find_roots(), remember=remember)
        raise SpecError(reading.source, problems)
    return reading.settled()


def _problems_here(reading: Reading, name: str | None, *, roots: Roots, remember: bool) -> tuple[Problem, ...]:
    """The problems of a spec, and those that it has here besides, if there is a QEMU to tell."""
    machine = reading.machine
    if machine is None:
        return reading.problems
    with suppress(KvmctlError):
        host = look_at_host(machine, roots=roots, remember=remember)
        qemu = look_at_qemu(machine, roots, remember=remember)
        paths = roots.machine(name or machine.name)
        return find_problems(reading, host=host, qemu=qemu, paths=paths, name=name, pinned=specs.read_pin(paths))
    return reading.problems


def name_of(reference: Machine | str | os.PathLike[str], machine: Machine) -> str:
    """What the machine of a spec is called: a defined one by the name it is defined under, whatever its spec says."""
    name = None if isinstance(reference, Machine) else specs.find_name(os.fspath(reference))
    return machine.name if name is None else name


def _is_lasting(host: HostFacts) -> bool:
    """Whether nothing of what was found is likely to pass by itself."""
    has_broken_daemon = bool(host.virtiofsd.path) and not host.virtiofsd.works
    return host.kvm.state != "broken" and not has_broken_daemon


def find_tie(host: HostFacts, qemu: QemuFacts) -> Tie:
    """How a QEMU is tied to its launcher on this host."""
    return Tie(by_qemu=Feature.EXIT_WITH_PARENT in qemu.features, setpriv=host.setpriv)


def confine(plan: Plan, host: HostFacts) -> Plan:
    """`plan` for a QEMU that can make no device nodes, where it is root's and its 9p server would for the guest.

    A node for the host's disk, in a directory that others can reach and with a mode of the guest's choice, is the host.
    """
    is_asked = any(share.driver == "9p" and not share.read_only for share in plan.shares)
    if not is_asked or host.setpriv is None or not _can_drop_devices():
        return plan
    return plan._replace(wrapper=(host.setpriv, "--bounding-set", "-mknod", "--"))


def _can_drop_devices() -> bool:
    """Whether we could make device nodes, and may give that up."""
    with open("/proc/self/status", "rb") as file:
        capabilities = next(int(line.split()[1], 16) for line in file if line.startswith(b"CapEff:"))
    return bool(capabilities >> _CAP_MKNOD & 1 and capabilities >> _CAP_SETPCAP & 1)
