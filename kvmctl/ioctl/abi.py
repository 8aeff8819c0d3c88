"""The layouts and numbers of ``<linux/kvm.h>`` and ``<asm/kvm.h>``: x86-64's structures and the requests made of KVM.

Every structure's size is checked when this file is imported, every request names the capability that guards it. What
goes on the wire lives here and nothing else; `device` gives each kind of descriptor its type.
"""

from __future__ import annotations

from ctypes import Array, Structure, c_uint8, c_uint16, c_uint32, c_uint64, sizeof
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from kvmctl.ioctl.caps import Cap
from kvmctl.ioctl.ioc import io, ior, iow, iowr

API_VERSION: Final = 12
"""The only stable version of the interface; the kernel's documentation tells programs to refuse any other."""

KVMIO: Final = 0xAE

CPUID_FLAG_SIGNIFICANT_INDEX: Final = 1
"""In `CpuidEntry2.flags`: the leaf has subleaves, and `index` counts."""

IO_OUT: Final = 1
"""In `RunIo.direction`: the guest wrote to the port."""


def _each(kind: type[Structure | c_uint8 | c_uint32 | c_uint64], names: str) -> list[tuple[str, Any]]:
    """Fields of one kind, in order."""
    return [(name, kind) for name in names.split()]


class UserspaceMemoryRegion(Structure):
    """``struct kvm_userspace_memory_region``: memory of ours that a guest sees at `guest_phys_addr`; sizes in bytes."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class Regs(Structure):
    """``struct kvm_regs``: the general registers."""

    _fields_ = _each(c_uint64, "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags")


class Segment(Structure):
    """``struct kvm_segment``: a segment register with its hidden part."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        *_each(c_uint8, "type present dpl db s l g avl unusable padding"),
    )


class Dtable(Structure):
    """``struct kvm_dtable``: the global or interrupt descriptor table register."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class Sregs(Structure):
    """``struct kvm_sregs``: segments, tables and control registers."""

    cs: Segment
    """The code segment, which decides where real mode starts."""

    _fields_ = (
        *_each(Segment, "cs ds es fs gs ss tr ldt"),
        ("gdt", Dtable),
        ("idt", Dtable),
        *_each(c_uint64, "cr0 cr2 cr3 cr4 cr8 efer apic_base"),
        ("interrupt_bitmap", c_uint64 * 4),
    )


class CpuidEntry2(Structure):
    """``struct kvm_cpuid_entry2``: one CPUID leaf (or subleaf) and its four words."""

    _fields_ = (
        *_each(c_uint32, "function index flags eax ebx ecx edx"),
        ("padding", c_uint32 * 3),
    )


class Cpuid2(Structure):
    """``struct kvm_cpuid2``: the head before `nent` entries."""

    _fields_ = (("nent", c_uint32), ("padding", c_uint32))


class MsrList(Structure):
    """``struct kvm_msr_list``: the head before `nmsrs` indices of four bytes."""

    _fields_ = (("nmsrs", c_uint32),)


class Msrs(Structure):
    """``struct kvm_msrs``: the head before `nmsrs` entries."""

    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32))


class MsrEntry(Structure):
    """``struct kvm_msr_entry``: a model-specific register and its value."""

    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


class SignalMask(Structure):
    """``struct kvm_signal_mask``: the head before a signal set of `len` bytes."""

    _fields_ = (("len", c_uint32),)


class RunIo(Structure):
    """The ``io`` member of ``struct kvm_run``; `data_offset` counts from the start of the page."""

    _fields_ = (
        ("direction", c_uint8),
        ("size", c_uint8),
        ("port", c_uint16),
        ("count", c_uint32),
        ("data_offset", c_uint64),
    )


class Run(Structure):
    """``struct kvm_run`` as far as its exits: the page a vCPU shares with its user.

    `exit_data` is the union whose meaning `exit_reason` decides.
    """

    exit_data: Array[c_uint8]

    _fields_ = (
        ("request_interrupt_window", c_uint8),
        ("immediate_exit", c_uint8),
        ("padding1", c_uint8 * 6),
        ("exit_reason", c_uint32),
        ("ready_for_interrupt_injection", c_uint8),
        ("if_flag", c_uint8),
        ("flags", c_uint16),
        ("cr8", c_uint64),
        ("apic_base", c_uint64),
        ("exit_data", c_uint8 * 256),
    )


SIZES: Final[dict[type[Structure], int]] = {
    UserspaceMemoryRegion: 32,
    Regs: 144,
    Segment: 24,
    Dtable: 16,
    Sregs: 312,
    CpuidEntry2: 40,
    Cpuid2: 8,
    MsrList: 4,
    Msrs: 8,
    MsrEntry: 16,
    SignalMask: 4,
    RunIo: 16,
    Run: 288,
}
"""What the kernel's C compiler makes of each, in bytes (``sizeof``; for `Run` the offset of ``kvm_valid_regs``)."""

if wrong := [layout.__name__ for layout, size in SIZES.items() if sizeof(layout) != size]:
    message = f"ctypes lays out {', '.join(wrong)} differently from the kernel"
    raise ImportError(message)


@dataclass(frozen=True, slots=True)
class Request:
    """One ioctl of KVM: its kernel name, its number, and the capability without which the kernel does not know it."""

    name: str
    number: int
    cap: Cap | None = None


def _plain(name: str, number: int, cap: Cap | None = None) -> Request:
    return Request(f"KVM_{name}", io(KVMIO, number), cap)


def _takes(name: str, number: int, layout: type[Structure | c_uint64], cap: Cap | None = None) -> Request:
    return Request(f"KVM_{name}", iow(KVMIO, number, sizeof(layout)), cap)


def _gives(name: str, number: int, layout: type[Structure], cap: Cap | None = None) -> Request:
    return Request(f"KVM_{name}", ior(KVMIO, number, sizeof(layout)), cap)


def _fills(name: str, number: int, layout: type[Structure], cap: Cap | None = None) -> Request:
    return Request(f"KVM_{name}", iowr(KVMIO, number, sizeof(layout)), cap)


# Requests on /dev/kvm itself.
GET_API_VERSION = _plain("GET_API_VERSION", 0x00)
CREATE_VM = _plain("CREATE_VM", 0x01)
CHECK_EXTENSION = _plain("CHECK_EXTENSION", 0x03)
GET_VCPU_MMAP_SIZE = _plain("GET_VCPU_MMAP_SIZE", 0x04)
GET_SUPPORTED_CPUID = _fills("GET_SUPPORTED_CPUID", 0x05, Cpuid2, Cap.EXT_CPUID)
GET_MSR_FEATURE_INDEX_LIST = _fills("GET_MSR_FEATURE_INDEX_LIST", 0x0A, MsrList, Cap.GET_MSR_FEATURES)
GET_MSRS = _fills("GET_MSRS", 0x88, Msrs, Cap.GET_MSR_FEATURES)

# Requests on a VM.
CREATE_VCPU = _plain("CREATE_VCPU", 0x41)
SET_USER_MEMORY_REGION = _takes("SET_USER_MEMORY_REGION", 0x46, UserspaceMemoryRegion, Cap.USER_MEMORY)
SET_TSS_ADDR = _plain("SET_TSS_ADDR", 0x47, Cap.SET_TSS_ADDR)
SET_IDENTITY_MAP_ADDR = _takes("SET_IDENTITY_MAP_ADDR", 0x48, c_uint64, Cap.SET_IDENTITY_MAP_ADDR)

# Requests on a vCPU.
RUN = _plain("RUN", 0x80)
GET_REGS = _gives("GET_REGS", 0x81, Regs)
SET_REGS = _takes("SET_REGS", 0x82, Regs)
GET_SREGS = _gives("GET_SREGS", 0x83, Sregs)
SET_SREGS = _takes("SET_SREGS", 0x84, Sregs)
SET_MSRS = _takes("SET_MSRS", 0x89, Msrs)
SET_CPUID2 = _takes("SET_CPUID2", 0x90, Cpuid2, Cap.EXT_CPUID)
SET_SIGNAL_MASK = _takes("SET_SIGNAL_MASK", 0x8B, SignalMask)


class ExitReason(IntEnum):
    """Why KVM_RUN came back, by the kernel's name without ``KVM_EXIT_``."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    S390_SIEIC = 13
    S390_RESET = 14
    DCR = 15
    NMI = 16
    INTERNAL_ERROR = 17
    OSI = 18
    PAPR_HCALL = 19
    S390_UCONTROL = 20
    WATCHDOG = 21
    S390_TSCH = 22
    EPR = 23
    SYSTEM_EVENT = 24
    S390_STSI = 25
    IOAPIC_EOI = 26
    HYPERV = 27
    ARM_NISV = 28
    X86_RDMSR = 29
    X86_WRMSR = 30
    DIRTY_RING_FULL = 31
    AP_RESET_HOLD = 32
    X86_BUS_LOCK = 33
    XEN = 34
    RISCV_SBI = 35
    RISCV_CSR = 36
    NOTIFY = 37
    LOONGARCH_IOCSR = 38
    MEMORY_FAULT = 39
    TDX = 40
    ARM_SEA = 41
    ARM_LDST64B = 42
    SNP_REQ_CERTS = 43
