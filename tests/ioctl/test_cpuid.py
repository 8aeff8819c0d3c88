"""Words become names: recorded ones, and every bit by itself."""

from __future__ import annotations

import os
import subprocess

import pytest

from kvmctl.ioctl import cpuid, words
from kvmctl.ioctl.cpuid import CpuidEntry

PVM_ON_EPYC = (
    CpuidEntry(0x0, 0, 0x1C, 0x68747541, 0x444D4163, 0x69746E65),
    CpuidEntry(0x1, 0, 0x00B00F21, 0x01020800, 0x81202000, 0x078BFBFF),
    CpuidEntry(0x7, 0, 0x1, 0x01800002, 0x104, 0x20000000),
    CpuidEntry(0x80000001, 0, 0x00B00F21, 0x40000000, 0x00400393, 0x23D3FBFF),
    CpuidEntry(0x80000007, 0, 0, 0, 0, 0x100),
    CpuidEntry(0x80000008, 0, 0x3030, 0x50020005, 0x7001, 0),
    CpuidEntry(0x8000000A, 0, 0, 0, 0, 0),
    CpuidEntry(0x40000000, 0, 0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D),
    CpuidEntry(0x40000001, 0, 0x01007EFB, 0, 0, 0),
)
"""KVM_GET_SUPPORTED_CPUID of kvm_pvm on an AMD EPYC, Linux 6.18, without the leaves that have no names."""

INTEL_WITH_NESTING = (
    CpuidEntry(0x0, 0, 0x16, 0x756E6547, 0x6C65746E, 0x49656E69),
    CpuidEntry(0x1, 0, 0x000806EA, 0x00100800, 0xFFFA3223, 0x0F8BFBFF),
    CpuidEntry(0x7, 0, 0, 0x009C6FBB, 0x4, 0xAC000400),
    CpuidEntry(0x80000001, 0, 0, 0, 0x121, 0x2C100800),
    CpuidEntry(0x80000008, 0, 0x3027, 0x0100D000, 0, 0),
)
"""Leaves as a KVM with nested=1 gives them on an Intel CPU: written from Intel's manual, not recorded."""


def test_a_kvm_without_hardware_help_offers_no_nesting() -> None:
    names = cpuid.features(PVM_ON_EPYC)
    assert not names & {"vmx", "svm", "npt", "sev"}
    assert names >= {"x2apic", "invtsc", "tsc-deadline", "hypervisor", "arch-capabilities", "kvm-pv-eoi", "kvmclock"}


def test_an_intel_kvm_with_nesting_offers_vmx() -> None:
    names = cpuid.features(INTEL_WITH_NESTING)
    assert names >= {"vmx", "x2apic", "tsc-deadline", "avx2", "pdpe1gb", "spec-ctrl", "ssbd"}
    assert "svm" not in names
    assert "invtsc" not in names


def test_vendor_signature_and_addresses_are_read() -> None:
    assert (cpuid.vendor(PVM_ON_EPYC), cpuid.vendor(INTEL_WITH_NESTING)) == ("AuthenticAMD", "GenuineIntel")
    assert (cpuid.hypervisor(PVM_ON_EPYC), cpuid.hypervisor(INTEL_WITH_NESTING)) == ("KVMKVMKVM", "")
    assert (cpuid.address_bits(PVM_ON_EPYC), cpuid.address_bits(INTEL_WITH_NESTING)) == ((48, 48), (39, 48))


def test_nothing_known_is_nothing_claimed() -> None:
    assert cpuid.features(()) == cpuid.msr_features({}) == frozenset()
    assert (cpuid.vendor(()), cpuid.hypervisor(()), cpuid.address_bits(())) == ("", "", (0, 0))


@pytest.mark.parametrize(
    ("word", "bit", "name"),
    [
        ((0x1, 0, "ecx"), 5, "vmx"),
        ((0x1, 0, "ecx"), 21, "x2apic"),
        ((0x1, 0, "ecx"), 24, "tsc-deadline"),
        ((0x7, 0, "ebx"), 5, "avx2"),
        ((0x7, 0, "ecx"), 16, "la57"),
        ((0x7, 0, "edx"), 29, "arch-capabilities"),
        ((0x80000001, 0, "ecx"), 2, "svm"),
        ((0x80000001, 0, "edx"), 26, "pdpe1gb"),
        ((0x80000007, 0, "edx"), 8, "invtsc"),
        ((0x8000000A, 0, "edx"), 0, "npt"),
        ((0x8000000A, 0, "edx"), 13, "avic"),
        ((0x8000001F, 0, "eax"), 1, "sev"),
        ((0x8000001F, 0, "eax"), 3, "sev-es"),
        ((0x8000001F, 0, "eax"), 4, "sev-snp"),
        ((0x40000001, 0, "eax"), 7, "kvm-pv-unhalt"),
        ((0x40000001, 0, "eax"), 24, "kvmclock-stable-bit"),
        ((0x40000001, 0, "edx"), 0, "kvm-hint-dedicated"),
    ],
)
def test_the_bits_that_decide_are_where_the_manuals_say(word: words.Word, bit: int, name: str) -> None:
    assert words.CPUID_WORDS[word][bit] == name


def test_no_bit_is_beyond_its_word() -> None:
    assert all(0 <= bit < 32 for names in words.CPUID_WORDS.values() for bit in names)
    assert all(0 <= bit < 64 for names in words.MSR_WORDS.values() for bit in names)
    assert all(0 <= bit < 32 for names in words.MSR_CONTROLS.values() for bit in names)


def test_no_name_but_kvmclocks_has_two_places() -> None:
    names = [name for word in words.CPUID_WORDS.values() for name in word.values()]
    assert {name for name in names if names.count(name) > 1} == {"kvmclock"}


def test_controls_count_where_they_may_be_switched_on() -> None:
    ept_and_vpid = 1 << 1 | 1 << 5
    assert cpuid.msr_features({0x48B: ept_and_vpid << 32}) == {"vmx-ept", "vmx-vpid"}
    assert cpuid.msr_features({0x48B: ept_and_vpid}) == frozenset()


def test_a_nested_guest_sees_ept_with_large_pages_and_real_mode() -> None:
    names = cpuid.msr_features({0x48B: 0x001FFCFF_00000000, 0x48C: 0x0000_0F01_0673_4141, 0x10A: 0x2B})
    assert names >= {"vmx-ept", "vmx-vpid", "vmx-unrestricted-guest", "vmx-ept-2mb", "vmx-ept-1gb", "vmx-page-walk-4"}
    assert names >= {"rdctl-no", "ibrs-all", "skip-l1dfl-vmentry", "mds-no"}


@pytest.mark.qemu
def test_the_names_are_qemus_own() -> None:
    """All but 50 of our names, which are those of newer bits, and of some that QEMU gives no guest."""
    qemu = os.environ.get("KVMCTL_QEMU", "qemu-system-x86_64")
    listed = subprocess.run([qemu, "-cpu", "help"], check=True, capture_output=True, text=True).stdout.split()
    named = {name for word in words.CPUID_WORDS.values() for name in word.values()}
    named |= {name for word in (*words.MSR_WORDS.values(), *words.MSR_CONTROLS.values()) for name in word.values()}
    assert len(named - set(listed)) <= 50
    assert {"vmx", "svm", "npt", "avic", "x2apic", "tsc-deadline", "invtsc", "kvm-pv-eoi"} <= named & set(listed)
    assert {"vmx-ept", "vmx-vpid", "vmx-unrestricted-guest", "vmx-eptad", "rdctl-no"} <= named & set(listed)
