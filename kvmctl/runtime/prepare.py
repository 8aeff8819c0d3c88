"""From a spec to a plan for this host: load, look, compile. Nothing is touched."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from kvmctl.compile import compile_plan
from kvmctl.host.identity import find_qemu
from kvmctl.host.kvm import probe
from kvmctl.host.qemu import qemu_facts
from kvmctl.plan import preset
from kvmctl.plan.facts import HostFacts, QemuFacts
from kvmctl.plan.features import Feature
from kvmctl.plan.model import Plan
from kvmctl.plan.option import keyval
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import specs, store
from kvmctl.spec.load import load, parse
from kvmctl.spec.machine import Machine


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan and the paths it was made for."""

    plan: Plan
    paths: MachinePaths
    is_lasting: bool = True
    """The plan is good for the next start too; not where KVM was there and did not work, which may pass."""


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
    machine = load_machine(reference, roots=roots)
    name = name_of(reference, machine) if name is None else name
    paths = roots.machine(name, ephemeral=is_captive)
    host = probe()
    path = find_qemu(machine.qemu, env=os.environ)
    qemu = qemu_facts(path, cache=roots.qemu_cache, env=os.environ, remember=remember)
    pinned = None if is_captive else specs.read_pin(paths)
    plan = compile_plan(machine, host=host, qemu=qemu, paths=paths, name=name, pinned=pinned)
    return Prepared(tie(plan, host, qemu) if is_captive else plan, paths, is_lasting=host.kvm.state != "broken")


def load_machine(machine: Machine | str | os.PathLike[str], *, roots: Roots | None = None) -> Machine:
    """`machine` itself, or the spec of that name or in that file. Raises SpecError, NotFound."""
    if isinstance(machine, Machine):
        return machine
    spec = specs.find_spec(os.fspath(machine), roots=roots)
    if preset.find_image(spec) is not None:
        return parse(specs.read_text(spec), source=spec, base="/")
    return load(spec)


def name_of(reference: Machine | str | os.PathLike[str], machine: Machine) -> str:
    """What the machine of a spec is called: a defined one by the name it is defined under, whatever its spec says."""
    name = None if isinstance(reference, Machine) else specs.find_name(os.fspath(reference))
    return machine.name if name is None else name


def tie(plan: Plan, host: HostFacts, qemu: QemuFacts) -> Plan:
    """`plan` for a QEMU that the kernel kills when its launcher ends, by QEMU's own option or util-linux's setpriv."""
    if Feature.EXIT_WITH_PARENT in qemu.features:
        option = keyval("run-with", exit_with_parent=True, why="default: the machine ends with the process it is for")
        return replace(plan, options=(*plan.options, option))
    if host.setpriv is None:
        return replace(
            plan,
            warnings=(*plan.warnings, "setpriv (util-linux) is missing: a killed launcher's QEMU is cleared away late"),
        )
    return replace(plan, wrapper=(host.setpriv, "--pdeathsig", "KILL", "--"))
