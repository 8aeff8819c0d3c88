"""What a machine runs on: the pinned machine type and the accelerator, from the spec and the facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kvmctl.errors import Problem
from kvmctl.plan.facts import HostFacts, MachineType, QemuFacts, Verdict, choose_accel
from kvmctl.spec.context import Platform
from kvmctl.spec.words import did_you_mean

_PLATFORMS: Final[Mapping[str, Platform]] = {"pc-q35-": "q35", "pc-i440fx-": "pc", "microvm": "microvm"}


def platform_of(machine_type: str) -> Platform | None:
    """The platform that a machine type is a version of; None for those kvmctl does not know."""
    return next((platform for prefix, platform in _PLATFORMS.items() if machine_type.startswith(prefix)), None)


def find_machine_type(asked: str, qemu: QemuFacts, *, pinned: str | None = None) -> MachineType | Problem:
    """The versioned machine type that `asked` means in this QEMU, or why there is none.

    `pinned` is the one the machine was first started as: it stands for an alias of its platform as long as QEMU has it.
    """
    for kind in qemu.machines:
        if kind.name == pinned and platform_of(kind.name) == asked:
            return kind
    for kind in qemu.machines:
        if asked in {kind.name, kind.alias} and platform_of(kind.name) is not None:
            return kind
    known = sorted({kind.alias or kind.name for kind in qemu.machines if platform_of(kind.name)})
    names = [kind.name for kind in qemu.machines if platform_of(kind.name)]
    hint = did_you_mean(asked, [*names, *known])
    return Problem(
        "machine",
        f"QEMU {qemu.version_text} ({qemu.path}) has no such machine that kvmctl knows",
        f"'{asked}'",
        f"{hint}one of {', '.join(repr(name) for name in ('q35', 'pc', 'microvm'))}, or a version of them",
    )


def choose(asked: str, host: HostFacts, qemu: QemuFacts) -> tuple[Verdict, str]:
    """The accelerator, and why KVM can't be had where it was asked for (empty when it can, or was not)."""
    has_kvm = "kvm" in qemu.accelerators
    match asked:
        case "tcg":
            return Verdict("tcg", "the spec says so"), ""
        case "kvm":
            missing = _missing_kvm(host) if has_kvm else f"{qemu.path} was built without KVM"
            return Verdict("kvm", "the spec says so"), missing
        case _ if not has_kvm:
            return Verdict("tcg", f"{qemu.path} was built without KVM"), ""
        case _:
            return choose_accel(host.kvm), ""


def _missing_kvm(host: HostFacts) -> str:
    """Why KVM can't be used at all. Unlike 'auto' this does not ask whether an ordinary kernel would run: the spec
    asks for KVM, and a guest of another kind may well do."""
    kvm = host.kvm
    if kvm.state != "usable":
        return kvm.reason or f"/dev/kvm is {kvm.state}"
    if kvm.api_version != 12:
        return f"/dev/kvm speaks API version {kvm.api_version}, not 12"
    if not (kvm.creates_vm and kvm.creates_vcpu):
        return kvm.reason or "/dev/kvm opens but can't create a VM with a vCPU"
    return ""
