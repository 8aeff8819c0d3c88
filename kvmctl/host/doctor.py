"""A survey → findings and a verdict. Pure: a survey recorded on another host is diagnosed as well as one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kvmctl.host.finding import Finding
from kvmctl.host.record import Survey
from kvmctl.host.rules import devices, kvm, memory, qemu
from kvmctl.plan.facts import Verdict, choose_accel

RULES: Final[tuple[Callable[[Survey], Iterator[Finding]], ...]] = (
    kvm.check_device,
    kvm.check_nesting,
    kvm.check_paging,
    kvm.check_smm,
    qemu.check_qemu,
    qemu.check_accelerators,
    qemu.check_build,
    qemu.check_firmware,
    devices.check_vhost_net,
    devices.check_vhost_vsock,
    devices.check_tun,
    devices.check_iommu,
    memory.check_memory,
    memory.check_hugepages,
    memory.check_ksm,
    memory.check_cgroups,
    memory.check_runtime_dir,
    qemu.check_programs,
)
"""In the order in which people read them."""


@dataclass(frozen=True, slots=True)
class Report:
    """A diagnosis."""

    verdict: Verdict
    """What ``accel = "auto"`` takes here, and why."""
    can_run: bool
    """Whether any machine can run at all."""
    findings: tuple[Finding, ...]


def diagnose(survey: Survey) -> Report:
    """What a survey means."""
    verdict = _choose(survey)
    has_qemu = survey.qemu.state == "usable" and verdict.accel in survey.qemu.accelerators
    findings = tuple(finding for check in RULES for finding in check(survey))
    return Report(verdict, has_qemu and survey.runtime.is_writable, findings)


def _choose(survey: Survey) -> Verdict:
    qemu = survey.qemu
    if qemu.state == "usable" and "kvm" not in qemu.accelerators:
        return Verdict("tcg", f"{qemu.path} was built without KVM")
    return choose_accel(kvm.facts_of(survey))
