"""What every example spec comes to on every recorded QEMU, as text that can be reviewed.

A golden is a whole plan: the command line with one option a line, then what the launcher does around it. The host, the
directories and the firmwares are invented and always the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import kvmctl
from kvmctl.compile import compile_plan
from kvmctl.plan import card
from kvmctl.plan.facts import Firmware, HostFacts, KvmFacts, QemuFacts
from kvmctl.plan.fork import Frozen, fork_plan
from kvmctl.plan.model import Plan, plain
from kvmctl.plan.option import render_option
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.plan.placing import place
from kvmctl.plan.template import template_plan
from kvmctl.plan.virtiofsd import Virtiofsd
from kvmctl.spec.load import parse
from kvmctl.spec.machine import Machine
from kvmctl.testing.qapi import Recording

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
RECORDINGS = {
    path.stem: Recording.parse(path.read_text())
    for path in sorted((ROOT / "tests/data/qemu").glob("*.json"), key=lambda path: float(path.stem))
}
SPECS = {path.stem: path for folder in ("machines", "tests/specs") for path in sorted((ROOT / folder).glob("*.toml"))}

FROZEN = tuple(
    f"{name}@{form}"
    for name in ("small-linux", "cloud-image", "uefi-secure", "forked-networks", "forked-networks-pc")
    for form in ("template", "fork")
)
"""Example specs as templates and as forks of these."""
NAMES = (*SPECS, *FROZEN)
"""All that there are goldens of."""

UNSTABLE = "migrate-set-capabilities.capabilities[0].capability 'x-ignore-shared': unstable"
"""What QEMU calls unstable of what forks need; there is no other way to leave shared memory out of a state, and it has
been there, unchanged, since QEMU 4.0."""

ROOTS = Roots("/etc/kvmctl", "/var/lib/kvmctl", "/run/kvmctl", "/var/cache/kvmctl")
BOOTED = MachinePaths("one-boot", "/run/kvmctl/one-boot", "/var/lib/kvmctl/templates/.one")
WHERE = Frozen(BOOTED, ROOTS.unfinished_template("one"), ROOTS.template("one"))
"""Where a template is booted, made and kept."""
KVM = KvmFacts(
    "usable",
    api_version=12,
    creates_vm=True,
    creates_vcpu=True,
    runs_code=True,
    capabilities={"X86_SMM": 1},
    cpu_flags=frozenset({"vmx"}),
    module="kvm_intel",
)
HOST = HostFacts(
    KVM,
    vhost_net=True,
    vhost_vsock=True,
    tun=True,
    cpus=8,
    memory=32 << 30,
    hugepages={2 << 20: 4096},
    setpriv="/usr/bin/setpriv",
    user="alice",
    virtiofsd=Virtiofsd("/usr/libexec/virtiofsd", frozenset({"--shared-dir", "--fd", "--readonly", "--log-level"}), ""),
)


def _firmware(name: str, code: str, variables: str, *features: str) -> Firmware:
    return Firmware(
        descriptor=f"/usr/share/qemu/firmware/{name}.json",
        code=f"/usr/share/OVMF/{code}",
        code_format="raw",
        vars_template=f"/usr/share/OVMF/{variables}",
        vars_format="raw",
        machines=("pc-q35-*",) if features else ("pc-i440fx-*", "pc-q35-*"),
        features=("acpi-s3", *features),
    )


FIRMWARES = (
    _firmware(
        *("40-edk2-x86_64-secure-enrolled", "OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"),
        *("enrolled-keys", "requires-smm", "secure-boot"),
    ),
    _firmware(
        *("50-edk2-x86_64-secure", "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd"), *("requires-smm", "secure-boot")
    ),
    _firmware("60-edk2-x86_64", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
)
"""Debian's."""


def recorded_facts(version: str) -> QemuFacts:
    """The facts of a recorded QEMU, with Debian's firmwares."""
    return replace(RECORDINGS[version].facts(), firmwares=FIRMWARES)


def load_spec(name: str, *, base: str = "/srv/machines") -> Machine:
    """An example spec as if it lay in `base`."""
    return parse(SPECS[name].read_text(), source=f"{base}/{name}.toml", base=base)


def plan_for(name: str, version: str) -> Plan:
    """The plan of an example spec on a recorded QEMU; of its template with ``@template``, of a fork with ``@fork``."""
    name, _, form = name.partition("@")
    machine, qemu = load_spec(name), recorded_facts(version)
    if form == "fork":
        plan = place(common_plan(name, version), ROOTS.machine("one"), uuid="8a0d9d7e-63a6-4d36-8e59-2b4c2cc8f6a1")
        return card.address(plan)
    if not form:
        return compile_plan(machine, host=HOST, qemu=qemu, paths=ROOTS.machine(machine.name))
    return _template(name, version)[0]


def _template(name: str, version: str) -> tuple[Plan, tuple[card.Card, ...]]:
    """The plan of an example spec's template, and the cards that its forks have of their own."""
    machine, qemu = load_spec(name), recorded_facts(version)
    plan = compile_plan(machine, host=HOST, qemu=qemu, paths=BOOTED, name="one")
    plan = template_plan(plan, machine=BOOTED, template=WHERE.made, generation_id="vmgenid" in qemu.devices)
    return card.unplug(plan)


def common_plan(name: str, version: str) -> Plan:
    """What all forks of an example spec have in common."""
    plan, cards = _template(name, version)
    return fork_plan(plan, where=WHERE, features=recorded_facts(version).features, cards=cards)


def golden(name: str, version: str) -> str:
    """The text of one golden."""
    installed = str(Path(kvmctl.__file__).parents[1])
    lines = [line.replace(installed, "") for line in _lines(plan_for(name, version))]
    return "\n".join(lines) + "\n"


def _lines(plan: Plan) -> Iterator[str]:
    numbers = Names()
    yield plan.qemu
    for option in plan.options:
        yield " ".join(render_option(option, numbers))
    yield ""
    yield f"accel: {plan.accel}: {plan.accel_reason}"
    fields = ("fds", "helpers", "steps", "inputs", "ports", "before_run", "after_renewal")
    fields += ("consoles", "disks", "networks", "shares")
    for field, found in (*((field, getattr(plan, field)) for field in fields), ("guest", (plan.guest,))):
        for item in found:
            yield f"{field}: {type(item).__name__} {_compact(plain(item))}"
    yield from (f"warning: {warning}" for warning in plan.warnings)


class Names(Mapping[str, Any]):
    """Descriptors by their names instead of numbers, which the launcher has and a golden has not."""

    def __getitem__(self, name: str) -> str:
        return f"<{name}>"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _compact(record: dict[str, Any]) -> str:
    """The keys that have a value."""
    return json.dumps({key: value for key, value in record.items() if value not in (None, "", [], {})})
