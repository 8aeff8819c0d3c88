"""A guest of eleven bytes that proves KVM executes code: an addition, a store, a load, and an OUT with the result.

It starts in real mode, as every x86 CPU does, with the two numbers in AX and BX and no devices at all, so each of its
two exits comes to us: first the OUT, then the HLT. It proves nothing about larger guests: where KVM emulates
(``kvm_pvm``), firmware and this guest run and an ordinary kernel hangs.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from mmap import PAGESIZE, mmap
from time import perf_counter_ns
from typing import Final

from kvmctl.ioctl import abi
from kvmctl.ioctl.cpuid import CpuidEntry
from kvmctl.ioctl.device import Exit, Kvm, Vcpu, Vm
from kvmctl.ioctl.handle import IoctlFailed

CODE: Final = bytes.fromhex(
    "01d8"  # add ax, bx
    "a30008"  # mov [0x800], ax
    "a10008"  # mov ax, [0x800]
    "e7e9"  # out 0xe9, ax
    "f4"  # hlt
)
ADDENDS: Final = (0x1234, 0x4321)
PORT: Final = 0xE9
_EXPECTED: Final = (
    Exit(abi.ExitReason.IO, port=PORT, data=sum(ADDENDS).to_bytes(2, "little")),
    Exit(abi.ExitReason.HLT),
)
_IDENTITY_MAP: Final = 0x1_0000
_TSS: Final = 0x2_0000
_RFLAGS_RESERVED: Final = 2
"""Bit 1 of RFLAGS is always set; KVM refuses to enter a guest without it."""
_ARCH_CAPABILITIES: Final = "arch-capabilities"
_ARCH_CAPABILITIES_MSR: Final = 0x10A
"""``IA32_ARCH_CAPABILITIES``: to which of the known attacks the CPU is immune."""
_ANNOUNCED: Final = (CpuidEntry(0, 0, 7, 0, 0, 0), CpuidEntry(7, 0, 0, 0, 0, 1 << 29, abi.CPUID_FLAG_SIGNIFICANT_INDEX))
"""The CPUID of a guest that has this register, and leaves up to the one that says so."""
_KICK: Final = signal.SIGRTMIN + 1
"""Nobody's signal: blocked for the thread, let through only while the vCPU runs, and taken off the queue after."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How far the self-test came. `exits` names the exits in order; times are in microseconds."""

    creates_vm: bool = False
    creates_vcpu: bool = False
    runs_code: bool = False
    exits: tuple[str, ...] = ()
    total_us: int = 0
    """From creating the VM to having closed everything."""
    run_us: int = 0
    """In KVM_RUN."""
    refused_msrs: tuple[str, ...] = ()
    """Registers, by QEMU's names, that KVM says guests may be given and then does not let us set: QEMU aborts."""
    reason: str = ""
    """Why it failed; empty when it passed."""
    errno: int = 0
    """The kernel's reason where it refused a request."""


def self_test(kvm: Kvm, *, patience: float = 1.0) -> SelfTest:
    """Make a VM with one vCPU and one page, run `CODE` on it, and tear it down; at most `patience` seconds of running.

    Never raises for what KVM refuses: that is the result.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        return SelfTest(reason=f"this is {machine}, whose KVM runs no x86 guest")
    started = perf_counter_ns()
    result = _attempt(kvm, patience=patience)
    return replace(result, total_us=(perf_counter_ns() - started) // 1000)


def _attempt(kvm: Kvm, *, patience: float) -> SelfTest:
    result = SelfTest()
    try:
        with ExitStack() as stack:
            # Unmapped last: the VM holds on to it.
            memory = stack.enter_context(mmap(-1, PAGESIZE))
            memory[: len(CODE)] = CODE
            vm = stack.enter_context(kvm.create_vm())
            result = replace(result, creates_vm=True)
            vcpu = stack.enter_context(_make_vcpu(vm, memory))
            result = replace(result, creates_vcpu=True, refused_msrs=_refused_msrs(kvm, vcpu))
            _enter_real_mode(vcpu)
            return _run(vcpu, result, patience=patience)
    except OSError as error:
        return replace(result, reason=str(error), errno=error.errno or 0)


def _make_vcpu(vm: Vm, memory: mmap) -> Vcpu:
    vm.set_real_mode_pages(tss=_TSS, identity_map=_IDENTITY_MAP)
    vm.add_memory(memory, guest_address=0, slot=0)
    return vm.create_vcpu(0)


def _refused_msrs(kvm: Kvm, vcpu: Vcpu) -> tuple[str, ...]:
    """QEMU sets what it finds among the feature registers, and takes no for an answer badly."""
    try:
        value = kvm.feature_msr(_ARCH_CAPABILITIES_MSR)
        if not value:
            return ()
        vcpu.set_cpuid(_ANNOUNCED)  # a newer kernel lets nobody set what the guest was not told of
        return () if vcpu.takes_msr(_ARCH_CAPABILITIES_MSR, value) else (_ARCH_CAPABILITIES,)
    except IoctlFailed:
        return ()  # a kernel that does not say what guests may be given, nor is asked by QEMU


def _enter_real_mode(vcpu: Vcpu) -> None:
    sregs = vcpu.sregs()
    # A CPU comes out of reset at 0xfffffff0; the page starts at 0.
    sregs.cs.base = sregs.cs.selector = 0
    vcpu.set_sregs(sregs)
    first, second = ADDENDS
    vcpu.set_regs(abi.Regs(rax=first, rbx=second, rip=0, rflags=_RFLAGS_RESERVED))


def _run(vcpu: Vcpu, result: SelfTest, *, patience: float) -> SelfTest:
    exits: list[Exit] = []
    nanoseconds = number = 0
    try:
        with _kicked_after(patience, vcpu) as is_over:
            for expected in _EXPECTED:
                started = perf_counter_ns()
                exits.append(_run_until(is_over, vcpu))
                nanoseconds += perf_counter_ns() - started
                if exits[-1] != expected:
                    break
        reason = "" if tuple(exits) == _EXPECTED else _describe(exits[-1])
    except OSError as error:
        number = error.errno or 0
        reason = f"the guest was still running after {patience:g} s" if number == errno.EINTR else str(error)
    names = tuple(each.name for each in exits)
    return replace(result, runs_code=not reason, exits=names, run_us=nanoseconds // 1000, reason=reason, errno=number)


def _run_until(is_over: threading.Event, vcpu: Vcpu) -> Exit:
    """Run to the next exit; signals that are others' business, a window's new size or a child's end, don't count."""
    while True:
        try:
            return vcpu.run()
        except IoctlFailed as error:
            if error.errno != errno.EINTR or is_over.is_set():
                raise


def _describe(last: Exit) -> str:
    match last.reason:
        case abi.ExitReason.IO:
            return f"the guest wrote {last.data.hex() or 'nothing'} to port {last.port:#x}: KVM calculates wrongly"
        case abi.ExitReason.HLT:
            return "the guest halted before it wrote its result"
        case _:
            code = f" with code {last.code:#x}" if last.code else ""
            return f"the guest ended with {last.name}{code} instead of HLT"


@contextmanager
def _kicked_after(seconds: float, vcpu: Vcpu) -> Iterator[threading.Event]:
    """End KVM_RUN on this thread with EINTR after `seconds`, and set the event that is given.

    The thread blocks the signal and the vCPU lets it through (KVM_SET_SIGNAL_MASK), so no handler ever runs, which
    only the main thread could install, and a kick that comes too late has no one to hit.
    """
    is_over = threading.Event()
    thread = threading.get_ident()

    def kick() -> None:
        is_over.set()
        signal.pthread_kill(thread, _KICK)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {_KICK})
    timer = threading.Timer(seconds, kick)
    try:
        vcpu.set_signal_mask(set(before) - {_KICK})
        timer.start()
        yield is_over
    finally:
        timer.cancel()
        if timer.ident:
            timer.join()
        signal.sigtimedwait({_KICK}, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
