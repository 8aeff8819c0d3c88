"""Facts and plans for the tests of specs: one host and the recorded QEMUs, changed where a test needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvmctl.compile import compile_plan, find_problems
from kvmctl.errors import SpecError
from kvmctl.plan.facts import Firmware, HostFacts, KvmFacts, QemuFacts
from kvmctl.plan.model import MakeFifos, Plan, Step
from kvmctl.plan.option import Option
from kvmctl.plan.paths import MachinePaths
from kvmctl.spec.load import Format, from_mapping, parse, read
from kvmctl.spec.machine import Machine
from kvmctl.testing.qapi import Recording


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document, down to the leaves."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, dict | list):
        for item in node.values() if isinstance(node, dict) else node:
            yield from objects(item)


PATHS = MachinePaths(name="web", run="/run/kvmctl/web", state="/var/lib/kvmctl/machines/web")

NO_KVM = KvmFacts("absent", "there is no /dev/kvm")
KVM = KvmFacts(
    "usable", api_version=12, creates_vm=True, creates_vcpu=True, runs_code=True, cpu_flags=frozenset({"vmx"})
)

SECURE = Firmware(
    descriptor="/usr/share/qemu/firmware/40-edk2-x86_64-secure-enrolled.json",
    code="/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
    code_format="raw",
    vars_template="/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    vars_format="raw",
    machines=("pc-q35-*",),
    features=("acpi-s3", "enrolled-keys", "requires-smm", "secure-boot"),
)
PLAIN = Firmware(
    descriptor="/usr/share/qemu/firmware/60-edk2-x86_64.json",
    code="/usr/share/OVMF/OVMF_CODE_4M.fd",
    code_format="raw",
    vars_template="/usr/share/OVMF/OVMF_VARS_4M.fd",
    vars_format="raw",
    machines=("pc-i440fx-*", "pc-q35-*"),
    features=("acpi-s3",),
)
RECORDINGS = {
    path.stem: Recording.parse(path.read_text()) for path in (Path(__file__).parents[1] / "data/qemu").glob("*.json")
}
QEMUS = {version: replace(recording.facts(), firmwares=(SECURE, PLAIN)) for version, recording in RECORDINGS.items()}
QEMU = QEMUS["7.2"]
HOST = HostFacts(NO_KVM, vhost_net=True, vhost_vsock=True, tun=True, cpus=2, memory=8 << 30)


def machine(text: str = "") -> Machine:
    """The machine of a spec in ``/specs/web.toml``."""
    return parse(text, source="web.toml", base="/specs")


def steps(made: Plan) -> tuple[Step, ...]:
    """The steps of a plan, but for the making of the agent's channel, which most have."""
    return tuple(step for step in made.steps if not isinstance(step, MakeFifos))


def plan(text: str = "", *, host: HostFacts = HOST, qemu: QemuFacts = QEMU, paths: MachinePaths = PATHS) -> Plan:
    """The plan of a spec."""
    return compile_plan(machine(text), host=host, qemu=qemu, paths=paths)


def host(**changes: Any) -> HostFacts:
    """The host of these tests with some facts changed."""
    return replace(HOST, **changes)


def qemu(**changes: Any) -> QemuFacts:
    """The QEMU of these tests with some facts changed."""
    return replace(QEMU, **changes)


def options(made: Plan, flag: str) -> list[Option]:
    """Every ``-flag`` of a plan."""
    return [option for option in made.options if option.flag == flag]


def only(made: Plan, flag: str) -> Option:
    """The one ``-flag`` of a plan."""
    (option,) = options(made, flag)
    return option


def body(made: Plan, flag: str, name: str) -> dict[str, Any]:
    """The body of the option that makes `name` (an id or a node name)."""
    (found,) = [
        option.body for option in options(made, flag) if name in {option.body.get("id"), option.body.get("node-name")}
    ]
    return dict(found)


def device(made: Plan, device_id: str) -> dict[str, Any]:
    """The body of the ``-device`` with this id."""
    return body(made, "device", device_id)


def rejections(text: str, *, format: Format = "toml", **facts: Any) -> list[str]:  # noqa: A002
    """The problems that a spec has, read and compiled, one line each."""
    given = {"host": HOST, "qemu": QEMU, "paths": PATHS, **facts}
    try:
        found = find_problems(read(text, source="web.toml", base="/specs", format=format), **given)
    except SpecError as error:  # it is no table at all
        found = error.problems
    return [str(problem) for problem in found]


def rejected(text: str, **facts: Any) -> list[str]:
    """The problems of a spec that is wrong, read and compiled, one line each."""
    found = rejections(text, **facts)
    assert found
    return found


def kvm(**changes: Any) -> KvmFacts:
    """A usable KVM with some facts changed."""
    return replace(KVM, **changes)


def plan_of(spec: Mapping[str, Any]) -> Plan:
    """The plan of a spec given as plain values."""
    read = from_mapping(spec, source="web.toml", base="/specs")
    return compile_plan(read, host=HOST, qemu=QEMU, paths=PATHS)
