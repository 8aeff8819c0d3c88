"""The diagnosis of recorded hosts: the verdict, what is said of each, and what to do about it."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest
from hosts import NAMES, recorded

from kvmctl.host.doctor import Report, diagnose
from kvmctl.host.finding import Finding
from kvmctl.host.record import Permissions, Qemu, Survey
from kvmctl.ioctl.selftest import SelfTest

VERDICTS = {
    "amd-npt": ("kvm", True),
    "container": ("tcg", True),
    "disabled-in-firmware": ("tcg", True),
    "intel-nested": ("kvm", True),
    "kvm-pvm": ("tcg", True),
    "no-module": ("tcg", True),
    "no-nesting": ("tcg", True),
    "no-permission": ("tcg", True),
    "no-qemu": ("kvm", False),
    "qemu-6.2": ("kvm", False),
}
"""What ``auto`` takes on each recorded host, and whether machines can run there at all."""

WRONG = {
    "amd-npt": [],
    "container": ["kvm.container"],
    "disabled-in-firmware": ["kvm.disabled-in-firmware"],
    "intel-nested": ["runtime.volatile"],
    "kvm-pvm": ["kvm.no-hardware-help"],
    "no-module": ["kvm.module-not-loaded", "programs.no-qemu-img"],
    "no-nesting": ["kvm.no-nesting", "memory.little"],
    "no-permission": ["kvm.denied"],
    "no-qemu": ["qemu.missing", "runtime.volatile", "programs.no-qemu-img"],
    "qemu-6.2": ["qemu.too-old", "runtime.volatile"],
}
"""The warnings and problems of each."""


def find(report: Report, name: str) -> Finding:
    """The finding of that id, or a failure that lists those there are."""
    found = [finding for finding in report.findings if finding.id == name]
    assert len(found) == 1, [finding.id for finding in report.findings]
    return found[0]


def with_kvm(survey: Survey, **changes: Any) -> Survey:
    """`survey` with another /dev/kvm."""
    return replace(survey, inventory=replace(survey.inventory, kvm=replace(survey.inventory.kvm, **changes)))


def with_modules(survey: Survey, **modules: dict[str, str]) -> Survey:
    """`survey` with other modules."""
    return replace(survey, inventory=replace(survey.inventory, modules=modules))


def with_qemu(survey: Survey, **changes: Any) -> Survey:
    """`survey` with another QEMU."""
    return replace(survey, qemu=replace(survey.qemu, **changes))


def with_flags(survey: Survey, *flags: str) -> Survey:
    """`survey` with a CPU of other flags."""
    cpu = replace(survey.inventory.cpu, flags=flags)
    return replace(survey, inventory=replace(survey.inventory, cpu=cpu))


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_host_gets_its_verdict(name: str) -> None:
    report = diagnose(recorded(name))
    assert (report.verdict.accel, report.can_run) == VERDICTS[name]
    assert report.verdict.reason


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_host_is_told_what_is_wrong_and_nothing_else(name: str) -> None:
    findings = diagnose(recorded(name)).findings
    assert [finding.id for finding in findings if finding.level in {"warning", "problem"}] == WRONG[name]
    assert len({finding.id for finding in findings}) == len(findings)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_as_it_could_be_comes_with_a_fix(name: str) -> None:
    for finding in diagnose(recorded(name)).findings:
        assert finding.fix or finding.level == "ok", finding
        assert not finding.summary.endswith((".", " ")), finding


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_problem_exactly_where_nothing_can_run(name: str) -> None:
    report = diagnose(recorded(name))
    assert any(finding.level == "problem" for finding in report.findings) is not report.can_run


def test_a_good_host_is_told_what_it_has() -> None:
    report = diagnose(recorded("amd-npt"))
    assert find(report, "kvm.usable").summary == "KVM works: module kvm_amd, NPT; the self-test ran in 1.5 ms"
    assert "encrypted (sev, sev-es, sev-snp)" in find(report, "kvm.guests").summary
    assert find(report, "kvm.nested").level == "ok"
    assert find(report, "hugepages.reserved").summary.startswith("Huge pages: 6144 of 8192 free, 2 MiB each")
    assert find(report, "ksm.running").summary.endswith("saves 3 GiB now")
    assert find(report, "iommu.usable").summary == "The IOMMU is on: 141 devices in 87 groups"
    assert find(report, "vhost-net.usable").level == "ok"


def test_a_kvm_without_hardware_is_named_with_its_module_and_what_runs_under_it() -> None:
    report = diagnose(recorded("kvm-pvm"))
    text = find(report, "kvm.no-hardware-help").summary
    assert "module kvm_pvm" in text
    assert "neither vmx nor svm" in text
    assert "firmware and real-mode guests run" in text
    assert 'UEFI Secure Boot need accel = "tcg"' in find(report, "kvm.no-smm").summary


def test_a_missing_module_is_named_with_the_command_that_loads_it() -> None:
    host = recorded("no-module")
    assert find(diagnose(host), "kvm.module-not-loaded").fix.startswith("sudo modprobe kvm_intel;")
    amd = find(diagnose(with_flags(host, "svm")), "kvm.module-not-loaded")
    assert amd.summary == "The module kvm_amd is not loaded"


def test_a_kernel_without_the_module_is_told_apart_from_one_that_has_not_loaded_it() -> None:
    host = recorded("no-module")
    text = find(diagnose(replace(host, system=replace(host.system, kvm_on_disk=()))), "kvm.no-module")
    assert host.system.kernel in text.summary
    assert "reboot if the kernel was updated" in text.fix


def test_a_loaded_module_without_a_node_is_told_how_to_make_one() -> None:
    host = with_modules(recorded("no-module"), kvm={}, kvm_intel={})
    assert find(diagnose(host), "kvm.no-node").fix.startswith("sudo mknod -m 660 /dev/kvm c 10 232")


def test_a_node_without_a_driver_is_a_missing_module() -> None:
    host = with_kvm(recorded("no-module"), state="broken", errno=errno.ENODEV, reason="no driver")
    assert find(diagnose(host), "kvm.module-not-loaded")


def test_the_firmwares_switch_is_known_from_the_log_or_from_the_register() -> None:
    host = recorded("disabled-in-firmware")
    told = find(diagnose(host), "kvm.disabled-in-firmware")
    assert told.summary.endswith("x86/cpu: VMX (outside TXT) disabled by BIOS")
    assert "VT-x" in told.fix
    by_register = replace(host, switch=replace(host.switch, log=(), is_log_readable=False))
    assert find(diagnose(by_register), "kvm.disabled-in-firmware").summary.endswith("the CPU's register says so")


@pytest.mark.parametrize("is_readable", [True, False])
def test_what_can_not_be_known_of_the_firmware_is_said(*, is_readable: bool) -> None:
    host = recorded("disabled-in-firmware")
    switch = replace(host.switch, log=(), register="unknown", is_log_readable=is_readable)
    told = find(diagnose(replace(host, switch=switch)), "kvm.no-cpu-support")
    assert "it has none, or firmware switched it off" in told.summary
    assert ("can't be read by this user" in told.summary) is not is_readable
    assert ("sudo dmesg" in told.fix) is not is_readable


def test_a_virtual_machine_without_nesting_is_sent_to_its_hypervisor() -> None:
    assert "nested=1" in find(diagnose(recorded("no-nesting")), "kvm.no-nesting").fix


@pytest.mark.parametrize(
    ("kind", "gift"),
    [
        ("docker", "docker run --device /dev/kvm ..."),
        ("podman", "podman run --device /dev/kvm ..."),
        ("kubernetes", "a device plugin for /dev/kvm"),
        ("rkt", "give the container the device /dev/kvm"),
    ],
)
def test_a_container_is_told_how_to_be_given_the_device(kind: str, gift: str) -> None:
    host = recorded("container")
    told = find(diagnose(replace(host, system=replace(host.system, container=kind))), "kvm.container")
    assert told.fix.startswith(gift)
    assert f"({kind})" in told.summary
    assert "the host has kvm_intel loaded" in told.summary


def test_a_user_outside_the_group_is_told_to_join_it() -> None:
    told = find(diagnose(recorded("no-permission")), "kvm.denied")
    assert told.summary == "No permission to open /dev/kvm: it belongs to root:kvm, mode 0660"
    assert told.fix.startswith("sudo usermod -aG kvm bob, and log in again")
    assert "sudo setfacl -m u:bob:rw /dev/kvm" in told.fix


def test_a_session_older_than_the_membership_is_told_to_log_in_again() -> None:
    host = recorded("no-permission")
    user = replace(host.user, member_of=(*host.user.member_of, "kvm"))
    told = find(diagnose(replace(host, user=user)), "kvm.denied-until-login")
    assert told.fix == "log out and in again, or: newgrp kvm"


def test_a_node_that_is_roots_alone_gets_a_udev_rule() -> None:
    host = replace(recorded("no-permission"), kvm_node=Permissions("root", "root", "0600"))
    told = find(diagnose(host), "kvm.denied")
    assert told.fix.startswith("""echo 'KERNEL=="kvm", GROUP="kvm", MODE="0660"' | sudo tee /etc/udev/rules.d/""")
    assert "usermod -aG kvm bob" in told.fix


@pytest.mark.parametrize("mode", ["0666", "0660"])
def test_a_refusal_that_the_mode_does_not_explain_is_not_blamed_on_it(mode: str) -> None:
    host = recorded("no-permission")
    user = replace(host.user, groups=(*host.user.groups, "kvm"))
    told = find(diagnose(replace(host, user=user, kvm_node=Permissions("root", "kvm", mode))), "kvm.forbidden")
    assert "a container's device rules, or SELinux" in told.summary


def test_permission_to_a_kvm_that_would_not_help_is_not_oversold() -> None:
    host = with_flags(recorded("no-permission"), "x2apic")
    assert "an ordinary guest would not run under it" in find(diagnose(host), "kvm.denied").summary


def test_another_hypervisor_is_recognised() -> None:
    test = SelfTest(reason="KVM_CREATE_VM: Device or resource busy", errno=errno.EBUSY)
    host = with_kvm(recorded("intel-nested"), state="broken", reason=test.reason, self_test=test)
    assert "VirtualBox, VMware" in find(diagnose(host), "kvm.busy").summary
    assert diagnose(host).verdict.accel == "tcg"


def test_a_failed_self_test_is_told_with_its_reason() -> None:
    reason = "the guest ended with FAIL_ENTRY with code 0x80000021 instead of HLT"
    test = SelfTest(creates_vm=True, creates_vcpu=True, exits=("FAIL_ENTRY",), reason=reason)
    report = diagnose(with_kvm(recorded("intel-nested"), state="broken", reason=reason, self_test=test))
    assert reason in find(report, "kvm.broken").summary
    assert (report.verdict.accel, report.verdict.reason) == ("tcg", reason)


def test_a_kvm_without_what_qemu_needs_is_broken() -> None:
    host = recorded("intel-nested")
    caps = {name: value for name, value in host.inventory.kvm.capabilities.items() if name != "USER_MEMORY"}
    assert find(diagnose(with_kvm(host, capabilities=caps)), "kvm.broken").summary.endswith("needs: USER_MEMORY")


def test_nesting_that_is_off_comes_with_the_way_to_switch_it_on() -> None:
    told = find(
        diagnose(with_modules(recorded("intel-nested"), kvm_intel={"nested": "N", "ept": "Y"})), "kvm.nested-off"
    )
    assert told.level == "note"
    assert "options kvm_intel nested=1" in told.fix


def test_paging_that_is_off_is_a_warning() -> None:
    told = find(diagnose(with_modules(recorded("amd-npt"), kvm_amd={"nested": "1", "npt": "N"})), "kvm.paging-off")
    assert told.summary == "NPT is off, so guests are several times slower"


def test_another_architecture_has_its_machines_emulated() -> None:
    host = recorded("no-module")
    report = diagnose(replace(host, system=replace(host.system, machine="aarch64")))
    assert find(report, "kvm.other-architecture").summary.startswith("This host is aarch64")
    assert report.verdict.accel == "tcg"


def test_a_missing_qemu_comes_with_the_package_of_the_distribution() -> None:
    assert find(diagnose(recorded("no-qemu")), "qemu.missing").fix == "sudo pacman -S qemu-system-x86"
    host = recorded("no-qemu")
    elsewhere = replace(host, system=replace(host.system, family="gentoo"))
    assert "qemu-system-x86 (Debian)" in find(diagnose(elsewhere), "qemu.missing").fix


def test_a_wrong_setting_is_to_be_unset_rather_than_installed_over() -> None:
    seen = Qemu("/opt/qemu", "KVMCTL_QEMU", "missing", "there is no executable '/opt/qemu'")
    report = diagnose(replace(recorded("intel-nested"), qemu=seen))
    assert find(report, "qemu.missing").fix == "unset KVMCTL_QEMU, or point it at another"


def test_a_qemu_that_does_not_start_is_quoted() -> None:
    host = with_qemu(
        recorded("intel-nested"), state="broken", reason="'/q' does not start", detail="a\nlibfoo.so missing"
    )
    assert find(diagnose(host), "qemu.broken").summary == "'/q' does not start: libfoo.so missing"


def test_a_qemu_without_kvm_decides_the_verdict() -> None:
    report = diagnose(with_qemu(recorded("intel-nested"), accelerators=("tcg",)))
    assert report.verdict.accel == "tcg"
    assert "was built without KVM" in report.verdict.reason
    assert find(report, "qemu.no-kvm").level == "warning"
    assert report.can_run


@pytest.mark.parametrize(
    ("name", "can_run", "level"), [("intel-nested", True, "note"), ("no-module", False, "problem")]
)
def test_a_qemu_without_tcg_needs_kvm(name: str, level: str, *, can_run: bool) -> None:
    report = diagnose(with_qemu(recorded(name), accelerators=("kvm",)))
    assert (report.can_run, find(report, "qemu.no-tcg").level) == (can_run, level)


def test_what_a_build_of_qemu_left_out_is_named() -> None:
    host = with_qemu(recorded("intel-nested"), features=("tls",), missing_devices=("qxl-vga",))
    report = diagnose(host)
    assert find(report, "qemu.no-sandbox").level == "warning"
    assert find(report, "qemu.left-out").summary == "This QEMU has no VNC, qxl-vga"


def test_a_runtime_directory_that_can_not_be_written_stops_everything() -> None:
    host = recorded("intel-nested")
    report = diagnose(replace(host, runtime=replace(host.runtime, is_writable=False)))
    assert find(report, "runtime.not-writable").level == "problem"
    assert not report.can_run


def test_lingering_settles_the_matter_of_logging_out() -> None:
    assert find(diagnose(recorded("no-permission")), "runtime.lasting")
    assert find(diagnose(recorded("intel-nested")), "runtime.volatile").fix == "loginctl enable-linger alice"


def test_a_limit_of_the_control_group_counts_as_memory() -> None:
    host = recorded("container")
    assert "this session is limited to 2 GiB" in find(diagnose(host), "memory.enough").summary
    tight = replace(host, memory=replace(host.memory, limit=256 << 20))
    assert find(diagnose(tight), "memory.little").level == "warning"


def test_programs_that_this_release_does_not_use_are_no_more_than_noted() -> None:
    report = diagnose(replace(recorded("intel-nested"), programs={}))
    levels = {finding.id: finding.level for finding in report.findings if finding.subject == "programs"}
    assert levels == {
        "programs.no-qemu-img": "warning",
        "programs.no-setpriv": "warning",
        "programs.no-ssh": "warning",
        "programs.no-ssh-keygen": "warning",
        "programs.no-swtpm": "note",
        "programs.no-passt": "note",
        "programs.no-virtiofsd": "note",
    }


def test_a_virtiofsd_that_does_not_work_is_no_virtiofsd() -> None:
    problem = "cannot share '/usr/lib/qemu': making a user namespace: Operation not permitted"
    programs = {"virtiofsd": "/usr/lib/qemu/virtiofsd"}
    report = diagnose(replace(recorded("intel-nested"), programs=programs, virtiofsd_problem=problem))
    (finding,) = [finding for finding in report.findings if "virtiofsd" in finding.id]
    assert (finding.id, finding.level) == ("programs.virtiofsd-fails", "warning")
    assert problem in finding.summary
    assert "user.max_user_namespaces" in finding.fix
