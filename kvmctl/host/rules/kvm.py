"""KVM: why it can't be used, or what it can do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

from kvmctl.host.finding import Finding
from kvmctl.host.kvm import kvm_facts
from kvmctl.host.record import Permissions, Survey, User
from kvmctl.ioctl.kernel import is_nesting, is_on, two_stage_paging
from kvmctl.plan.facts import KvmFacts, choose_accel

_MODULE_OF: Final = {"vmx": "kvm_intel", "svm": "kvm_amd"}
_FLAG_OF: Final = {"GenuineIntel": "vmx", "AuthenticAMD": "svm", "HygonGenuine": "svm", "  Shanghai  ": "vmx"}
_SWITCH_OF: Final = {"vmx": "Intel Virtualization Technology (VT-x, VMX)", "svm": "SVM Mode (AMD-V)"}
_NO_DRIVER: Final = (errno.ENODEV, errno.ENXIO)
_GIFT_OF: Final = {
    "docker": "docker run --device /dev/kvm ...",
    "podman": "podman run --device /dev/kvm ...",
    "lxc": "lxc config device add NAME kvm unix-char source=/dev/kvm",
    "kubernetes": "a device plugin for /dev/kvm, KubeVirt's for one, and its resource in the pod's limits",
    "systemd-nspawn": "systemd-nspawn --bind=/dev/kvm --property='DeviceAllow=/dev/kvm rw' ...",
}
"""How each kind of container is given the device."""
_UDEV_RULE: Final = (
    """echo 'KERNEL=="kvm", GROUP="kvm", MODE="0660"' | sudo tee /etc/udev/rules.d/65-kvm.rules && """
    "sudo udevadm control --reload && sudo udevadm trigger /dev/kvm"
)
_OWNER_RW: Final = 0o600
_GROUP_RW: Final = 0o060
_OTHER_RW: Final = 0o006


def facts_of(survey: Survey) -> KvmFacts:
    """The facts that a start on that host would be decided by."""
    return kvm_facts(survey.inventory.kvm, survey.inventory.cpu, vendor_module(survey))


def vendor_module(survey: Survey) -> str:
    """The module that drives the CPU; empty when none is loaded or built in."""
    return min((name for name in survey.inventory.modules if name.startswith("kvm_")), default="")


def check_device(survey: Survey) -> Iterator[Finding]:
    """``/dev/kvm``: absent, denied, broken, or usable; and usable for what."""
    facts = facts_of(survey)
    if survey.system.machine != "x86_64":
        text = f"This host is {survey.system.machine}: its KVM runs no x86 machines, so they are emulated"
        yield Finding("kvm.other-architecture", "warning", text)
        return
    match facts.state:
        case "absent":
            yield _explain_absence(survey)
        case "denied":
            yield _explain_denial(survey)
        case "broken":
            yield _explain_breakage(survey, facts)
        case "usable":
            yield from _describe(survey, facts)


def check_nesting(survey: Survey) -> Iterator[Finding]:
    """Whether guests may run guests; asked only where KVM runs ordinary ones."""
    module = vendor_module(survey)
    if choose_accel(facts_of(survey)).accel != "kvm" or "nested" not in survey.inventory.modules.get(module, {}):
        return
    if is_nesting(survey.inventory.modules):
        yield Finding("kvm.nested", "ok", f"Guests can run guests of their own (module {module}, nested on)")
    else:
        fix = (
            f"echo 'options {module} nested=1' | sudo tee /etc/modprobe.d/kvmctl.conf; then, with no machine running, "
            f"sudo modprobe -r {module} && sudo modprobe {module}"
        )
        yield Finding("kvm.nested-off", "note", f"Guests can't run guests of their own (module {module})", fix)


def check_paging(survey: Survey) -> Iterator[Finding]:
    """Two-stage paging, without which every change of a guest's page tables is emulated."""
    module = vendor_module(survey)
    name = {"kvm_intel": "ept", "kvm_amd": "npt"}.get(module, "")
    value = survey.inventory.modules.get(module, {}).get(name)
    if value is None or is_on(value):
        return
    fix = f"remove {name}=0 from the options of {module} in /etc/modprobe.d and on the kernel's command line"
    yield Finding("kvm.paging-off", "warning", f"{name.upper()} is off, so guests are several times slower", fix)


def check_smm(survey: Survey) -> Iterator[Finding]:
    """System management mode, which keeps UEFI's secure variables."""
    if facts_of(survey).state == "usable" and not survey.inventory.kvm.capabilities.get("X86_SMM"):
        text = 'This KVM has no system management mode: machines with UEFI Secure Boot need accel = "tcg"'
        yield Finding("kvm.no-smm", "note", text, 'in their specs: accel = "tcg"; or firmware = "uefi"')


def _describe(survey: Survey, facts: KvmFacts) -> Iterator[Finding]:
    caps = facts.capabilities
    test = survey.inventory.kvm.self_test
    ran = f"the self-test ran in {test.total_us / 1000:.1f} ms"
    if choose_accel(facts).accel == "tcg":
        yield _explain_emulation(facts, ran)
        return
    paging = two_stage_paging(survey.inventory.modules).upper() or "shadow paging"
    yield Finding("kvm.usable", "ok", f"KVM works: module {facts.module or 'built in'}, {paging}; {ran}")
    limits = f"Guests can have up to {caps.get('MAX_VCPUS', 0)} vCPUs ({caps.get('NR_VCPUS', 0)} recommended)"
    kinds = [kind for kind in survey.inventory.kvm.vm_types if kind.startswith(("sev", "tdx"))]
    encrypted = f"; their memory can be encrypted ({', '.join(kinds)})" if kinds else ""
    yield Finding("kvm.guests", "ok", limits + encrypted)


def _explain_emulation(facts: KvmFacts, ran: str) -> Finding:
    module = f" (module {facts.module})" if facts.module else ""
    text = (
        f"/dev/kvm answers{module} and {ran}, but the CPU shows neither vmx nor svm: firmware and real-mode guests run "
        "under it, an ordinary kernel hangs"
    )
    fix = 'nothing to repair: accel = "auto" takes TCG; accel = "kvm" is for firmware and real-mode guests here'
    return Finding("kvm.no-hardware-help", "warning", text, fix)


def _explain_absence(survey: Survey) -> Finding:
    flag = _cpu_flag(survey)
    if survey.system.container:
        return _explain_container(survey)
    if _is_switched_off(survey):
        return _explain_switch(survey)
    if flag:
        return _explain_missing_module(survey, _MODULE_OF[flag])
    if "hypervisor" in survey.inventory.cpu.flags:
        return _explain_missing_nesting()
    return _explain_missing_flags(survey)


def _cpu_flag(survey: Survey) -> str:
    return next((flag for flag in _MODULE_OF if flag in survey.inventory.cpu.flags), "")


def _is_switched_off(survey: Survey) -> bool:
    return bool(survey.switch.log) or survey.switch.register == "off"


def _explain_container(survey: Survey) -> Finding:
    kind, module = survey.system.container, vendor_module(survey)
    host = f"the host has {module} loaded" if module else "whether the host has it can't be seen from here"
    text = f"This is a container ({kind}) that was not given /dev/kvm; {host}"
    return Finding("kvm.container", "warning", text, _GIFT_OF.get(kind, "give the container the device /dev/kvm"))


def _explain_switch(survey: Survey) -> Finding:
    evidence = survey.switch.log[0] if survey.switch.log else "the CPU's register says so"
    flag = _cpu_flag(survey) or _FLAG_OF.get(survey.inventory.cpu.vendor, "")
    switch = _SWITCH_OF.get(flag, "virtualisation")
    fix = f"enter the firmware's setup, switch on {switch}, and turn the machine off and on: a reboot is not enough"
    return Finding(
        "kvm.disabled-in-firmware", "warning", f"Virtualisation is switched off in firmware: {evidence}", fix
    )


def _explain_missing_module(survey: Survey, module: str) -> Finding:
    if module in survey.inventory.modules:
        text = f"The module {module} is loaded, but there is no /dev/kvm: nothing makes device nodes here"
        return Finding("kvm.no-node", "warning", text, "sudo mknod -m 660 /dev/kvm c 10 232 && sudo chgrp kvm /dev/kvm")
    if module not in survey.system.kvm_on_disk:
        text = f"The CPU can virtualise, but there is no module {module} for the running kernel {survey.system.kernel}"
        fix = "reboot if the kernel was updated since the last boot; else install the distribution's ordinary kernel"
        return Finding("kvm.no-module", "warning", text, fix)
    fix = f"sudo modprobe {module}; on every boot: echo {module} | sudo tee /etc/modules-load.d/kvm.conf"
    return Finding("kvm.module-not-loaded", "warning", f"The module {module} is not loaded", fix)


def _explain_missing_nesting() -> Finding:
    text = "This host is itself a virtual machine, and its hypervisor gives it neither vmx nor svm"
    fix = (
        "ask for nested virtualisation: under KVM the module option nested=1 and a CPU passed through from the host "
        "(-cpu host); in a cloud, a kind of instance that offers it"
    )
    return Finding("kvm.no-nesting", "warning", text, fix)


def _explain_missing_flags(survey: Survey) -> Finding:
    known = survey.switch.is_log_readable
    rest = "" if known else "; the kernel's log, which may tell, can't be read by this user"
    text = f"The CPU shows neither vmx nor svm: it has none, or firmware switched it off{rest}"
    look = "" if known else "sudo dmesg | grep -iE 'vmx|svm|kvm'; "
    return Finding("kvm.no-cpu-support", "warning", text, f"{look}look for VT-x or SVM in the firmware's setup")


def _explain_denial(survey: Survey) -> Finding:
    node, user = survey.kvm_node, survey.user
    if node is None or _permits(node, user):
        text = f"{user.name} may open /dev/kvm by its mode, and yet is refused: a container's device rules, or SELinux"
        fix = _GIFT_OF.get(survey.system.container, "see what the kernel says: sudo dmesg | grep -i denied")
        return Finding("kvm.forbidden", "warning", text, fix)
    is_for_group = _grants(node, _GROUP_RW)
    if is_for_group and node.group in user.member_of:
        text = f"{user.name} is in the group {node.group}, but this session began before that"
        return Finding("kvm.denied-until-login", "warning", text, f"log out and in again, or: newgrp {node.group}")
    text = f"No permission to open /dev/kvm: it belongs to {node.owner}:{node.group}, mode {node.mode}"
    if not _cpu_flag(survey):
        text += " (and the CPU shows neither vmx nor svm: an ordinary guest would not run under it)"
    group = node.group if is_for_group else "kvm"
    join = f"sudo usermod -aG {group} {user.name}, and log in again"
    at_once = f"until the next boot: sudo setfacl -m u:{user.name}:rw /dev/kvm"
    return Finding("kvm.denied", "warning", text, f"{'' if is_for_group else f'{_UDEV_RULE}; '}{join}; {at_once}")


def _permits(node: Permissions, user: User) -> bool:
    """Whether the mode alone lets `user` open the node."""
    if user.uid == 0:
        return True
    if node.owner == user.name:
        return _grants(node, _OWNER_RW)
    return _grants(node, _GROUP_RW if node.group in user.groups else _OTHER_RW)


def _grants(node: Permissions, bits: int) -> bool:
    return int(node.mode, 8) & bits == bits


def _explain_breakage(survey: Survey, facts: KvmFacts) -> Finding:
    device = survey.inventory.kvm
    if device.errno in _NO_DRIVER:
        return _explain_absence(survey)
    if device.self_test.errno == errno.EBUSY:
        text = "Another hypervisor has taken the CPU's virtualisation (VirtualBox, VMware, ...)"
        return Finding("kvm.busy", "warning", f"{text}: {device.self_test.reason}", "end its machines")
    log = "sudo dmesg | grep -i kvm"
    return Finding("kvm.broken", "warning", f"KVM does not work: {facts.reason}", f"see what the kernel says: {log}")
