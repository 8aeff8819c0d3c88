"""QEMU and the programs beside it."""

from __future__ import annotations

from collections.abc import Iterator

from kvmctl.host.finding import Finding, Level
from kvmctl.host.programs import PROGRAMS, QEMU_PACKAGES, UEFI_PACKAGES, Program, install_command
from kvmctl.host.record import Survey
from kvmctl.host.rules.kvm import facts_of
from kvmctl.plan.facts import choose_accel
from kvmctl.plan.features import Feature


def check_qemu(survey: Survey) -> Iterator[Finding]:
    """The one that machines run on: is there one, new enough, and does it start."""
    qemu = survey.qemu
    install = install_command(QEMU_PACKAGES, family=survey.system.family)
    other = "unset KVMCTL_QEMU, or point it at another" if qemu.origin == "KVMCTL_QEMU" else ""
    match qemu.state:
        case "missing":
            yield Finding("qemu.missing", "problem", qemu.reason, other or install)
        case "too old":
            fix = other or f"take it from a newer release or its backports: {install}; or set KVMCTL_QEMU to another"
            yield Finding("qemu.too-old", "problem", qemu.reason, fix)
        case "broken":
            words = f": {qemu.detail.splitlines()[-1]}" if qemu.detail else ""
            yield Finding("qemu.broken", "problem", qemu.reason + words, other or f"install it anew: {install}")
        case "usable":
            package = f" ({qemu.package})" if qemu.package else ""
            kinds = f"{qemu.machines} machine types, {qemu.devices} devices, {qemu.cpu_models} CPU models"
            accelerators = ", ".join(qemu.accelerators)
            features = ", ".join(qemu.features) or "nothing optional"
            text = f"QEMU {qemu.version}{package} at {qemu.path}: {kinds}; accelerators {accelerators}; has {features}"
            yield Finding("qemu.usable", "ok", text)


def check_accelerators(survey: Survey) -> Iterator[Finding]:
    """What this build of QEMU can accelerate with."""
    qemu = survey.qemu
    if qemu.state != "usable":
        return
    install = install_command(QEMU_PACKAGES, family=survey.system.family)
    if "kvm" not in qemu.accelerators:
        yield Finding("qemu.no-kvm", "warning", f"{qemu.path} was built without KVM, so machines are emulated", install)
    elif "tcg" not in qemu.accelerators:
        level: Level = "note" if choose_accel(facts_of(survey)).accel == "kvm" else "problem"
        text = f"{qemu.path} was built without TCG: machines run under KVM or not at all"
        yield Finding("qemu.no-tcg", level, text, install)


def check_build(survey: Survey) -> Iterator[Finding]:
    """What a distribution left out of its build, or packaged apart."""
    qemu = survey.qemu
    if qemu.state != "usable":
        return
    if Feature.SANDBOX not in qemu.features:
        text = "This QEMU was built without seccomp: its process is not confined"
        yield Finding("qemu.no-sandbox", "warning", text, "take one that was: the distributions' own are")
    lacking = [name for name, feature in (("VNC", Feature.VNC), ("TLS", Feature.TLS)) if feature not in qemu.features]
    lacking += qemu.missing_devices
    if lacking:
        names = ", ".join(lacking)
        fix = "look for its modules: Debian and Fedora package some apart (qemu-system-modules-*, qemu-device-*)"
        yield Finding("qemu.left-out", "note", f"This QEMU has no {names}", fix)


def check_firmware(survey: Survey) -> Iterator[Finding]:
    """UEFI for machines."""
    qemu = survey.qemu
    if qemu.firmwares:
        secure = "with" if qemu.has_secure_boot else "without"
        text = f"UEFI is installed ({len(qemu.firmwares)} firmwares, {secure} Secure Boot)"
        yield Finding("uefi.usable", "ok", text)
    elif qemu.state == "usable":
        text = 'No UEFI firmware is installed: machines with firmware = "uefi" can\'t start'
        yield Finding("uefi.missing", "note", text, install_command(UEFI_PACKAGES, family=survey.system.family))


def check_programs(survey: Survey) -> Iterator[Finding]:
    """The helper programs; those that this release does not use are only told of."""
    for program in PROGRAMS:
        path = survey.programs.get(program.name)
        if path and program.name == "virtiofsd" and survey.virtiofsd_problem:
            yield _explain_virtiofsd(program, survey.virtiofsd_problem)
        elif path:
            yield Finding(f"programs.{program.name}", "ok", f"{program.name}, which {program.purpose}: {path}")
        else:
            yield _explain_absence(program, install_command(program.packages, family=survey.system.family))


def _explain_virtiofsd(program: Program, problem: str) -> Finding:
    text = f"{program.name}, which {program.purpose}, does not work: {problem}; {_without(program)}"
    fix = "let users make user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    return Finding("programs.virtiofsd-fails", "warning", text, fix + "kernel.apparmor_restrict_unprivileged_userns")


def _explain_absence(program: Program, install: str) -> Finding:
    level: Level = "warning" if program.is_used and not program.without else "note"
    rest = "" if program.is_used else "; this release does not use it"
    rest += f"; {_without(program)}" if program.without else ""
    text = f"{program.name} is not installed, which {program.purpose}{rest}"
    return Finding(f"programs.no-{program.name}", level, text, install)


def _without(program: Program) -> str:
    return f"without it, {program.without}"
