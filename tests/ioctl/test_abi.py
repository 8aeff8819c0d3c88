"""Layouts, numbers and names are those of the kernel's own headers, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmctl.ioctl import abi, nodes
from kvmctl.ioctl.abi import ExitReason, Request
from kvmctl.ioctl.caps import NEWEST_KERNEL, Cap

INCLUDE = Path("/usr/include/linux")
KVM_HEADER = INCLUDE / "kvm.h"

needs_headers = pytest.mark.skipif(not KVM_HEADER.exists(), reason=f"no {KVM_HEADER} (Debian: linux-libc-dev)")
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler (Debian: gcc)")

REQUESTS = [value for value in vars(abi).values() if isinstance(value, Request)]

STRUCTS = {
    abi.UserspaceMemoryRegion: "kvm_userspace_memory_region",
    abi.Regs: "kvm_regs",
    abi.Segment: "kvm_segment",
    abi.Dtable: "kvm_dtable",
    abi.Sregs: "kvm_sregs",
    abi.CpuidEntry2: "kvm_cpuid_entry2",
    abi.Cpuid2: "kvm_cpuid2",
    abi.MsrList: "kvm_msr_list",
    abi.Msrs: "kvm_msrs",
    abi.MsrEntry: "kvm_msr_entry",
    abi.SignalMask: "kvm_signal_mask",
}


def defines(prefix: str) -> dict[str, int]:
    """Macros of <linux/kvm.h> that begin with `prefix` and are plain numbers, without the prefix."""
    pattern = rf"^#define\s+{prefix}(\w+)\s+(\d+)\b"
    return {name: int(number) for name, number in re.findall(pattern, KVM_HEADER.read_text(), re.MULTILINE)}


def header_version() -> tuple[int, int]:
    (code,) = re.findall(r"LINUX_VERSION_CODE (\d+)", (INCLUDE / "version.h").read_text())
    return int(code) >> 16, int(code) >> 8 & 0xFF


@needs_headers
def test_capabilities_have_the_kernels_numbers() -> None:
    known = {cap.name: cap.value for cap in Cap}
    installed = defines("KVM_CAP_")
    assert known == known | {name: number for name, number in installed.items() if name in known}


@needs_headers
def test_no_capability_of_the_kernel_is_missing() -> None:
    if header_version() > NEWEST_KERNEL:
        pytest.skip(f"the headers here are of Linux {header_version()}, the list of {NEWEST_KERNEL}")
    assert set(defines("KVM_CAP_")) <= {cap.name for cap in Cap}


@needs_headers
def test_exit_reasons_have_the_kernels_numbers() -> None:
    installed = defines("KVM_EXIT_")
    assert {each.name: each.value for each in ExitReason if each.name in installed} == {
        name: number for name, number in installed.items() if name in ExitReason.__members__
    }


@needs_headers
@needs_compiler
def test_the_c_compiler_agrees_on_every_size_and_number(tmp_path: Path) -> None:
    requests = [*REQUESTS, nodes.VHOST_GET_FEATURES, nodes.VHOST_SET_OWNER, nodes.TUNGETFEATURES]
    expected = {request.name: request.number for request in requests}
    expected |= {f"sizeof(struct {name})": abi.SIZES[layout] for layout, name in STRUCTS.items()}
    expected["offsetof(struct kvm_run, kvm_valid_regs)"] = abi.SIZES[abi.Run]
    expected["offsetof(struct kvm_run, io)"] = abi.Run.exit_data.offset
    expected["sizeof(((struct kvm_run *)0)->io)"] = abi.SIZES[abi.RunIo]
    source = tmp_path / "abi.c"
    lines = [f'printf("{text}=%lu\\n", (unsigned long)({text}));' for text in expected]
    headers = ("linux/kvm.h", "linux/vhost.h", "linux/if_tun.h", "stddef.h", "stdio.h")
    source.write_text(
        "".join(f"#include <{header}>\n" for header in headers) + "int main(void) {" + "\n".join(lines) + "}"
    )
    subprocess.run(["cc", "-o", tmp_path / "abi", source], check=True, capture_output=True)
    output = subprocess.run([tmp_path / "abi"], check=True, capture_output=True, text=True).stdout
    assert dict(line.rsplit("=", 1) for line in output.splitlines()) == {
        text: str(number) for text, number in expected.items()
    }


def test_every_structure_has_its_size_asserted() -> None:
    layouts = {
        value
        for value in vars(abi).values()
        if isinstance(value, type) and issubclass(value, abi.Structure) and value is not abi.Structure
    }
    assert set(abi.SIZES) == layouts


def test_numbers_and_names_are_unique() -> None:
    assert len({request.number for request in REQUESTS}) == len(REQUESTS)
    assert len({cap.value for cap in Cap}) == len(Cap)


def test_a_capability_knows_its_name_in_the_kernels_documentation() -> None:
    assert Cap.X86_SMM.kernel_name == "KVM_CAP_X86_SMM"
