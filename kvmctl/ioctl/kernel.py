"""What the kernel says of KVM besides its ioctls: the CPU's flags, the modules, and their parameters.

Every function takes the root of the file system it reads, so that it can be shown another host's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/")

_INTEL: Final = """
    vmx smx ept ept_ad ept_1gb vpid unrestricted_guest tpr_shadow flexpriority vapic vid apicv posted_intr
    preemption_timer shadow_vmcs pml tsc_scaling vnmi
"""
_AMD: Final = """
    svm npt lbrv nrip_save tsc_scale vmcb_clean flushbyasid decodeassists pausefilter avic x2avic vgif
    v_vmsave_vmload sme sev sev_es sev_snp
"""
_EITHER: Final = "hypervisor x2apic constant_tsc nonstop_tsc tsc_deadline_timer pdpe1gb pcid sgx tdx_host_platform"

VIRTUALIZATION_FLAGS: Final = frozenset(f"{_INTEL} {_AMD} {_EITHER}".split())
"""The flags of /proc/cpuinfo that matter to virtualisation (arch/x86/include/asm/cpufeatures.h, vmxfeatures.h)."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """The first CPU, from /proc/cpuinfo; `flags` are those in `VIRTUALIZATION_FLAGS`."""

    vendor: str = ""
    model: str = ""
    flags: tuple[str, ...] = ()


def read_cpu(root: Path = ROOT) -> Cpu:
    """The first CPU. Fields the architecture does not have are empty."""
    facts: dict[str, str] = {}
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            # The kernel writes this file as it is read, CPU by CPU, so stopping early spares a large host the rest.
            for line in file:
                if line.isspace():
                    break
                key, _, value = line.partition(":")
                facts[key.strip()] = value.strip()
    except OSError:
        return Cpu()
    flags = {*facts.get("flags", "").split(), *facts.get("vmx flags", "").split()}
    return Cpu(facts.get("vendor_id", ""), facts.get("model name", ""), tuple(sorted(flags & VIRTUALIZATION_FLAGS)))


def read_modules(root: Path = ROOT) -> dict[str, Mapping[str, str]]:
    """KVM's modules, loaded or built in, each with those of its parameters that may be read."""
    modules = root / "sys/module"
    names = [path.name for path in modules.glob("kvm_*")] + [path.name for path in modules.glob("kvm")]
    return {name: _parameters(modules / name / "parameters") for name in sorted(names)}


def find_vendor_module(root: Path = ROOT) -> str:
    """The module that drives the CPU: ``kvm_intel``, ``kvm_amd``, ``kvm_pvm``; empty when there is none to be seen."""
    return min((path.name for path in (root / "sys/module").glob("kvm_*")), default="")


def two_stage_paging(modules: Mapping[str, Mapping[str, str]]) -> str:
    """The hardware that translates guest addresses for the loaded module: ``ept``, ``npt``; empty without any.

    The module's parameter rather than the CPU's flag: it is what KVM uses after asking the CPU.
    """
    return next((name for name in ("ept", "npt") if any(is_on(each.get(name, "")) for each in modules.values())), "")


def is_nesting(modules: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether guests may run guests of their own."""
    return any(is_on(each.get("nested", "")) for each in modules.values())


def is_on(value: str) -> bool:
    """A boolean module parameter's value; kernels write ``Y`` or ``1``, by the parameter's type."""
    return value in {"Y", "1"}


def _parameters(directory: Path) -> dict[str, str]:
    values = ((path.name, _text(path)) for path in sorted(directory.glob("*")))
    return {name: value for name, value in values if value is not None}


def _text(path: Path) -> str | None:
    """A small file's text; None when it can't be read, as root may keep a parameter to itself."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
