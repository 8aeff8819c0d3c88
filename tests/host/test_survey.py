"""The look at a host: this one, and trees that look like others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmctl.host import survey as module
from kvmctl.host.firmware_switch import read_firmware_switch
from kvmctl.host.programs import PROGRAMS, find_program, install_command
from kvmctl.host.record import Cgroups, FirmwareSwitch, HugePages, Iommu, Ksm, Survey
from kvmctl.host.survey import survey
from kvmctl.ioctl.probe import probe_device

BARE = {"PATH": "/nowhere", "HOME": "/nowhere", "KVMCTL_QEMU": "/nowhere/qemu"}
"""An environment in which nothing is installed."""


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write `files` under `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.qemu
def test_this_host_is_seen_in_full() -> None:
    seen = survey()
    assert Survey.loads(seen.dumps()) == seen
    assert seen.inventory.kvm.state == probe_device().state
    assert seen.memory.total >= seen.memory.available > 0
    assert seen.user.uid == os.geteuid()
    assert seen.qemu.state == "usable"
    assert seen.qemu.path.startswith("/")


def test_an_empty_host_is_seen_without_an_error(tmp_path: Path) -> None:
    seen = survey(tmp_path, env=BARE)
    assert seen.system.family == seen.system.container == ""
    assert (seen.hugepages, seen.ksm, seen.cgroups, seen.iommu) == ((), None, Cgroups(), Iommu())
    assert seen.kvm_node is None
    assert (seen.qemu.state, seen.programs["qemu-img"], seen.programs["setpriv"]) == ("missing", None, None)
    assert seen.switch == FirmwareSwitch()


@pytest.mark.parametrize(
    ("release", "family"),
    [
        ("ID=debian\n", "debian"),
        ('ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n', "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "fedora"),
        ('ID="rhel"\nID_LIKE="fedora"\n', "fedora"),
        ("ID=manjaro\nID_LIKE=arch\n# a comment\n", "arch"),
        ("ID=alpine\n", "alpine"),
    ],
)
def test_a_distribution_belongs_to_the_family_whose_packages_it_takes(
    tmp_path: Path, release: str, family: str
) -> None:
    assert survey(plant(tmp_path, {"etc/os-release": release}), env=BARE).system.family == family


@pytest.mark.parametrize(
    ("files", "env", "kind"),
    [
        ({".dockerenv": ""}, {}, "docker"),
        ({"run/.containerenv": 'engine="podman"'}, {}, "podman"),
        ({"run/systemd/container": "systemd-nspawn\n"}, {}, "systemd-nspawn"),
        ({".dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({}, {}, ""),
    ],
)
def test_containers_are_recognised(tmp_path: Path, files: dict[str, str], env: dict[str, str], kind: str) -> None:
    mounts = "38 37 0:55 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k\n"
    root = plant(tmp_path, files | {"proc/self/mountinfo": mounts})
    assert survey(root, env=BARE | env).system.container == kind


def test_a_file_that_docker_left_in_an_image_makes_no_container(tmp_path: Path) -> None:
    mounts = "22 27 0:21 / /proc rw - proc proc rw\n24 27 0:6 / /dev rw,relatime shared:2 - devtmpfs devtmpfs rw\n"
    root = plant(tmp_path, {".dockerenv": "", "proc/self/mountinfo": mounts})
    assert survey(root, env=BARE).system.container == ""


def test_modules_on_disk_are_found_compressed_and_built_in(tmp_path: Path) -> None:
    directory = f"lib/modules/{os.uname().release}"
    files = {
        f"{directory}/kernel/arch/x86/kvm/kvm-intel.ko.xz": "",
        f"{directory}/kernel/arch/x86/kvm/kvm.ko.xz": "",
        f"{directory}/modules.builtin": "kernel/arch/x86/kvm/kvm-amd.ko\nkernel/drivers/net/tun.ko\n",
    }
    assert survey(plant(tmp_path, files), env=BARE).system.kvm_on_disk == ("kvm_amd", "kvm_intel")


def test_memory_is_limited_by_the_least_of_the_groups_above(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/user.slice/session.scope\n",
        "sys/fs/cgroup/user.slice/memory.max": f"{512 << 20}\n",
        "sys/fs/cgroup/user.slice/session.scope/memory.max": "max\n",
        "sys/fs/cgroup/user.slice/session.scope/cgroup.controllers": "memory pids\n",
    }
    seen = survey(plant(tmp_path, files), env=BARE)
    assert seen.memory.limit == 512 << 20
    assert seen.cgroups == Cgroups("v2", ("memory", "pids"), is_writable=True)


def test_the_first_version_of_control_groups_counts_where_both_are_mounted(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": f"{128 << 20}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    seen = survey(plant(tmp_path, files), env=BARE)
    assert (seen.cgroups.version, seen.cgroups.controllers) == ("v1", ("cpu", "cpuacct", "memory"))
    assert seen.memory.limit == 128 << 20


def test_hugepages_ksm_and_iommu_are_counted(tmp_path: Path) -> None:
    files = {
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "64\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "60\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/kernel/mm/ksm/run": "1\n",
        "sys/kernel/mm/ksm/pages_sharing": "1000\n",
        "sys/kernel/iommu_groups/0/devices/0000:00:00.0": "",
        "sys/kernel/iommu_groups/1/devices/0000:00:02.0": "",
        "sys/kernel/iommu_groups/1/devices/0000:00:02.1": "",
    }
    seen = survey(plant(tmp_path, files), env=BARE)
    assert seen.hugepages == (HugePages(2 << 20, 64, 60),)
    assert seen.transparent_hugepages == "madvise"
    assert seen.ksm == Ksm(is_running=True, saved=1000 * os.sysconf("SC_PAGE_SIZE"))
    assert seen.iommu == Iommu(2, 3)


def test_a_node_is_seen_with_its_owner_and_mode(tmp_path: Path) -> None:
    node = plant(tmp_path, {"dev/kvm": ""}) / "dev/kvm"
    node.chmod(0o640)
    seen = survey(tmp_path, env=BARE)
    assert seen.kvm_node is not None
    assert (seen.kvm_node.mode, seen.kvm_node.owner) == ("0640", seen.user.name)


def test_a_wrong_qemu_is_reported_as_it_was_named(tmp_path: Path) -> None:
    seen = survey(tmp_path, env=BARE | {"KVMCTL_QEMU": "/opt/qemu"}).qemu
    assert (seen.state, seen.origin, seen.path) == ("missing", "KVMCTL_QEMU", "/opt/qemu")
    assert "'/opt/qemu'" in seen.reason


def test_a_qemu_that_is_none_is_broken_and_quoted(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 127\n")
    program.chmod(0o755)
    seen = survey(tmp_path, env=BARE | {"KVMCTL_QEMU": str(program)}).qemu
    assert (seen.state, seen.detail.strip()) == ("broken", "no such library")


def test_nothing_is_written(tmp_path: Path) -> None:
    roots = {f"KVMCTL_{kind}_DIR": str(tmp_path / "roots" / kind) for kind in ("CONFIG", "STATE", "RUNTIME", "CACHE")}
    seen = survey(env=os.environ | roots)
    assert seen.runtime.path == roots["KVMCTL_RUNTIME_DIR"]
    assert seen.runtime.is_writable
    assert not (tmp_path / "roots").exists()


def test_a_file_in_the_way_of_the_runtime_directory_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen = survey(tmp_path, env=BARE | {"KVMCTL_RUNTIME_DIR": str(tmp_path / "file/kvmctl")})
    assert not seen.runtime.is_writable


@pytest.fixture
def kernel_log(tmp_path: Path) -> Iterator[int]:
    """The write end of a /dev/kmsg in `tmp_path`: a pipe of packets, so that a read gives one record as there."""
    reader, writer = os.pipe2(os.O_DIRECT)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").symlink_to(f"/proc/self/fd/{reader}")
    yield writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    "words",
    [
        "x86/cpu: VMX (outside TXT) disabled by BIOS",
        "SVM disabled (by BIOS) in MSR_VM_CR",
        "kvm: disabled by bios",
        "kvm: support for 'kvm_amd' disabled by bios",
        "kvm_intel: VMX not enabled (by BIOS) in MSR_IA32_FEAT_CTL on CPU 0",
    ],
)
def test_what_kernels_say_of_the_firmware_is_understood(tmp_path: Path, kernel_log: int, words: str) -> None:
    os.write(kernel_log, b"6,1,0,-;Linux version 6.1.0 (gcc)\n")
    os.write(kernel_log, f"5,339,1234567,-;{words}\n SUBSYSTEM=cpu\n".encode())
    os.write(kernel_log, b"6,340,1300000,-;kvm-pvm: mmio caching disabled\n")
    assert read_firmware_switch(tmp_path, vendor="") == FirmwareSwitch((words,), is_log_readable=True)


def test_a_silent_log_is_told_from_one_that_can_not_be_read(tmp_path: Path, kernel_log: int) -> None:
    os.write(kernel_log, b"6,1,0,-;Linux version 6.1.0\n")
    assert read_firmware_switch(tmp_path, vendor="").is_log_readable
    assert not read_firmware_switch(tmp_path / "nowhere", vendor="").is_log_readable


@pytest.mark.parametrize(
    ("vendor", "number", "value", "position"),
    [
        ("GenuineIntel", 0x3A, 0b101, "on"),
        ("GenuineIntel", 0x3A, 0b001, "off"),
        ("GenuineIntel", 0x3A, 0b000, "on"),
        ("AuthenticAMD", 0xC0010114, 0b10000, "off"),
        ("AuthenticAMD", 0xC0010114, 0b01000, "on"),
        ("CentaurHauls", 0x3A, 0b001, "unknown"),
    ],
)
def test_the_cpus_register_knows(tmp_path: Path, vendor: str, number: int, value: int, position: str) -> None:
    register = plant(tmp_path, {"dev/cpu/0/msr": ""}) / "dev/cpu/0/msr"
    with register.open("wb") as file:
        file.seek(number)
        file.write(value.to_bytes(8, "little"))
    assert read_firmware_switch(tmp_path, vendor=vendor).register == position


def test_programs_are_found_on_path_and_where_distributions_hide_them(tmp_path: Path) -> None:
    (tmp_path / "virtiofsd").touch(mode=0o755)
    (virtiofsd,) = (program for program in PROGRAMS if program.name == "virtiofsd")
    assert find_program(virtiofsd, env={"PATH": str(tmp_path)}) == str(tmp_path / "virtiofsd")
    assert all(program.purpose and program.packages for program in PROGRAMS)


@pytest.mark.parametrize(
    ("family", "command"),
    [
        ("debian", "sudo apt-get install qemu-utils"),
        ("fedora", "sudo dnf install qemu-img"),
        ("arch", "sudo pacman -S qemu-img"),
    ],
)
def test_a_package_is_installed_the_distributions_way(family: str, command: str) -> None:
    assert install_command(PROGRAMS[0].packages, family=family) == command


def test_an_unknown_distribution_is_told_the_names() -> None:
    assert install_command(PROGRAMS[0].packages, family="gentoo").endswith(
        "qemu-utils (Debian), qemu-img (Fedora), qemu-img (Arch)"
    )


def test_a_user_without_an_entry_is_called_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 4_000_000)
    monkeypatch.setattr(module.os, "getuid", lambda: 4_000_000)
    assert survey(tmp_path, env=BARE).user.name == "4000000"
