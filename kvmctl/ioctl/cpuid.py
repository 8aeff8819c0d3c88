"""CPUID words and feature registers → named features. Pure; the names are in `words`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kvmctl.ioctl import words


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """One CPUID leaf, or the subleaf `index` of one, with its four words."""

    function: int
    index: int
    eax: int
    ebx: int
    ecx: int
    edx: int
    flags: int = 0
    """1 where the leaf has subleaves, so that `index` counts."""


def features(entries: Iterable[CpuidEntry]) -> frozenset[str]:
    """The features a guest may be given, by QEMU's names: ``vmx``, ``npt``, ``x2apic``, ``invtsc``, ``kvm-pv-eoi``."""
    by_leaf = {(entry.function, entry.index): entry for entry in entries}
    return frozenset(
        name
        for (function, index, register), names in words.CPUID_WORDS.items()
        if (entry := by_leaf.get((function, index)))
        for name in named_bits(getattr(entry, register), names)
    )


def msr_features(msrs: Mapping[int, int]) -> frozenset[str]:
    """The features that KVM's feature registers announce: ``rdctl-no``, and what the VMX given to guests can do."""
    plain = (name for msr, names in words.MSR_WORDS.items() for name in named_bits(msrs.get(msr, 0), names))
    controls = (name for msr, names in words.MSR_CONTROLS.items() for name in named_bits(msrs.get(msr, 0) >> 32, names))
    return frozenset(plain) | frozenset(controls)


def vendor(entries: Iterable[CpuidEntry]) -> str:
    """``GenuineIntel``, ``AuthenticAMD``, ...; empty if leaf 0 is missing."""
    return next((_text(entry.ebx, entry.edx, entry.ecx) for entry in entries if entry.function == 0), "")


def hypervisor(entries: Iterable[CpuidEntry]) -> str:
    """The signature guests will see: ``KVMKVMKVM``; empty if there is none."""
    leaf = words.KVM_SIGNATURE
    return next((_text(entry.ebx, entry.ecx, entry.edx) for entry in entries if entry.function == leaf), "")


def address_bits(entries: Iterable[CpuidEntry]) -> tuple[int, int]:
    """Bits of physical and of virtual addresses a guest may use; zeros if leaf 0x80000008 is missing."""
    leaf = 0x8000_0008
    return next(((entry.eax & 0xFF, entry.eax >> 8 & 0xFF) for entry in entries if entry.function == leaf), (0, 0))


def named_bits(word: int, names: Mapping[int, str]) -> tuple[str, ...]:
    """The names of the bits that are set in `word`."""
    return tuple(name for bit, name in names.items() if word >> bit & 1)


def _text(*registers: int) -> str:
    return b"".join(register.to_bytes(4, "little") for register in registers).rstrip(b"\0").decode("latin-1")
