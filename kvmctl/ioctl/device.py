"""One type per kind of KVM descriptor: `Kvm` makes a `Vm`, which makes a `Vcpu`.

::

    with Kvm.open() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        ...

The structures are x86-64's (see `abi`); on another CPU `Kvm.api_version` and `Kvm.capabilities` still hold.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from ctypes import addressof, c_char, c_uint32, c_uint64, sizeof
from dataclasses import dataclass
from mmap import mmap
from typing import Final, Self

from kvmctl.ioctl import abi
from kvmctl.ioctl.caps import Cap
from kvmctl.ioctl.cpuid import CpuidEntry
from kvmctl.ioctl.handle import Handle, Ioctl, IoctlFailed, system_ioctl

_CPUID_ENTRIES: Final = 256
"""What the kernel itself allows (``KVM_MAX_CPUID_ENTRIES``, arch/x86/include/asm/kvm_host.h)."""
_FEATURE_MSRS: Final = 256
"""Ten times as many as any kernel has."""


class Kvm(Handle):
    """``/dev/kvm``: what this kernel's KVM can do, and the maker of virtual machines."""

    @classmethod
    def open(cls, path: str = "/dev/kvm", *, ioctl: Ioctl = system_ioctl) -> Self:
        """Open KVM. Raises FileNotFoundError, PermissionError or another OSError."""
        return super().open(path, ioctl=ioctl)

    def api_version(self) -> int:
        """The interface's version: ``abi.API_VERSION``, or else nothing here means anything."""
        return self.request(abi.GET_API_VERSION)

    def check(self, cap: Cap) -> int:
        """A capability's value: 0 where the kernel lacks it, else 1 or a limit, size or bit mask."""
        return self.request(abi.CHECK_EXTENSION, cap)

    def capabilities(self) -> dict[Cap, int]:
        """Every capability this kernel has, with its value."""
        return {cap: value for cap in Cap if (value := self.check(cap))}

    def vcpu_mmap_size(self) -> int:
        """Bytes of the memory a vCPU shares with its user."""
        return self.request(abi.GET_VCPU_MMAP_SIZE)

    def supported_cpuid(self) -> tuple[CpuidEntry, ...]:
        """The CPUID leaves that guests may be given, x86 only."""
        head, item = sizeof(abi.Cpuid2), sizeof(abi.CpuidEntry2)
        buffer = bytearray(abi.Cpuid2(nent=_CPUID_ENTRIES)) + bytearray(_CPUID_ENTRIES * item)
        # SAFETY: `nent` is the number of entries that the buffer has room for; the kernel lowers it to what it wrote,
        # and says E2BIG rather than write more.
        self.request(abi.GET_SUPPORTED_CPUID, buffer)
        count = abi.Cpuid2.from_buffer(buffer).nent
        entries = (abi.CpuidEntry2 * count).from_buffer(buffer, head)
        return tuple(CpuidEntry(e.function, e.index, e.eax, e.ebx, e.ecx, e.edx, e.flags) for e in entries)

    def feature_msrs(self) -> dict[int, int]:
        """The model-specific registers by which KVM says what guests may be given, with their values, x86 only.

        The VMX ones (0x480 to 0x492) describe the VMX that a guest would see, so they are there only with nesting on.
        """
        values = ((index, self.feature_msr(index)) for index in self._feature_msr_indices())
        return {index: value for index, value in values if value is not None}

    def create_vm(self, kind: int = 0) -> Vm:
        """Make a virtual machine with no memory and no vCPU; `kind` 0 is the ordinary one."""
        while True:
            try:
                return Vm(self.request(abi.CREATE_VM, kind), kvm=self, ioctl=self._ioctl)
            except IoctlFailed as error:
                # Making a VM takes long enough for a signal to cut it short, and is then to be asked for again.
                if error.errno != errno.EINTR:
                    raise

    def _feature_msr_indices(self) -> list[int]:
        head, item = sizeof(abi.MsrList), sizeof(c_uint32)
        buffer = bytearray(abi.MsrList(nmsrs=_FEATURE_MSRS)) + bytearray(_FEATURE_MSRS * item)
        # SAFETY: `nmsrs` is the number of indices that the buffer has room for; the kernel puts in the number it has,
        # and says E2BIG rather than write more.
        self.request(abi.GET_MSR_FEATURE_INDEX_LIST, buffer)
        count = abi.MsrList.from_buffer(buffer).nmsrs
        return list((c_uint32 * count).from_buffer(buffer, head))

    def feature_msr(self, index: int) -> int | None:
        """One of these registers' value; None if the kernel lists it but can't read it."""
        buffer = bytearray(abi.Msrs(nmsrs=1)) + bytearray(abi.MsrEntry(index=index))
        # SAFETY: `nmsrs` is 1 and one entry follows the head.
        was_read = self.request(abi.GET_MSRS, buffer) == 1
        return int(abi.MsrEntry.from_buffer(buffer, sizeof(abi.Msrs)).data) if was_read else None


class Vm(Handle):
    """A virtual machine: memory slots and vCPUs. It keeps the memory it was given alive."""

    def __init__(self, fd: int, *, kvm: Kvm, ioctl: Ioctl = system_ioctl) -> None:
        super().__init__(fd, ioctl=ioctl)
        self._kvm = kvm
        self._memory: list[c_char] = []

    def check(self, cap: Cap) -> int:
        """A capability's value for this machine, which can be another than KVM's at large."""
        return self.request(abi.CHECK_EXTENSION, cap)

    def set_real_mode_pages(self, *, tss: int, identity_map: int) -> None:
        """Give KVM three pages at `tss` and one at `identity_map`, outside all memory slots.

        Intel CPUs that can't run real mode directly ("unrestricted guest") need them; elsewhere they change nothing.
        """
        self.request(abi.SET_TSS_ADDR, tss)
        self.write(abi.SET_IDENTITY_MAP_ADDR, c_uint64(identity_map))

    def add_memory(self, memory: mmap, *, guest_address: int, slot: int) -> None:
        """Show `memory`, which starts and ends on a page, to the guest at `guest_address`."""
        anchor = c_char.from_buffer(memory)
        # SAFETY: the guest can write here for as long as the machine lives. The anchor, held until `close`, makes
        # Python refuse to unmap the memory before (BufferError), and the size is the mapping's own.
        region = abi.UserspaceMemoryRegion(
            slot=slot, guest_phys_addr=guest_address, memory_size=len(memory), userspace_addr=addressof(anchor)
        )
        self.write(abi.SET_USER_MEMORY_REGION, region)
        self._memory.append(anchor)

    def create_vcpu(self, index: int) -> Vcpu:
        """Make a vCPU; it keeps the machine's kernel side alive until it is closed, so close it first."""
        size = self._kvm.vcpu_mmap_size()
        return Vcpu(self.request(abi.CREATE_VCPU, index), size=size, ioctl=self._ioctl)

    def close(self) -> None:
        """Close the descriptor and let go of the memory."""
        super().close()
        self._memory.clear()


@dataclass(frozen=True, slots=True)
class Exit:
    """Why a vCPU stopped: `reason` is an `abi.ExitReason` or a number newer than that list.

    `port` and `data` are what the guest wrote, for an exit to an I/O port; `code` is the hardware's or KVM's own reason
    for a failure.
    """

    reason: int
    port: int = 0
    data: bytes = b""
    code: int = 0

    @property
    def name(self) -> str:
        """``HLT``, ``IO``, ..."""
        try:
            return abi.ExitReason(self.reason).name
        except ValueError:
            return f"exit {self.reason}"


class Vcpu(Handle):
    """A vCPU: its registers, and running it."""

    def __init__(self, fd: int, *, size: int, ioctl: Ioctl = system_ioctl) -> None:
        super().__init__(fd, ioctl=ioctl)
        try:
            # SAFETY: the kernel writes to these pages during `run` only; they are read after it has come back.
            self._shared = mmap(fd, size)
        except BaseException:
            super().close()
            raise

    def regs(self) -> abi.Regs:
        """The general registers."""
        return self.read(abi.GET_REGS, abi.Regs)

    def set_regs(self, regs: abi.Regs) -> None:
        """Set the general registers."""
        self.write(abi.SET_REGS, regs)

    def sregs(self) -> abi.Sregs:
        """Segments, tables and control registers; after a reset they are those of real mode."""
        return self.read(abi.GET_SREGS, abi.Sregs)

    def set_sregs(self, sregs: abi.Sregs) -> None:
        """Set segments, tables and control registers."""
        self.write(abi.SET_SREGS, sregs)

    def set_cpuid(self, entries: Sequence[CpuidEntry]) -> None:
        """Say what the CPUID instruction tells the guest; before the vCPU runs for the first time."""
        words = (
            abi.CpuidEntry2(
                function=e.function, index=e.index, flags=e.flags, eax=e.eax, ebx=e.ebx, ecx=e.ecx, edx=e.edx
            )
            for e in entries
        )
        # SAFETY: `nent` is the number of entries that follow the head.
        self.request(abi.SET_CPUID2, bytearray(abi.Cpuid2(nent=len(entries))) + b"".join(map(bytes, words)))

    def takes_msr(self, index: int, value: int) -> bool:
        """Set a model-specific register; whether KVM let us."""
        # SAFETY: `nmsrs` is 1 and one entry follows the head.
        buffer = bytearray(abi.Msrs(nmsrs=1)) + bytearray(abi.MsrEntry(index=index, data=value))
        return self.request(abi.SET_MSRS, buffer) == 1

    def set_signal_mask(self, blocked: Iterable[int]) -> None:
        """Have exactly the signals `blocked` wait while the vCPU runs, whatever the thread's own mask; any other one
        ends `run` with EINTR."""
        mask = sum(1 << number - 1 for number in blocked)
        # SAFETY: `len` is 8, the kernel's own sigset_t (not the C library's), and eight bytes follow the head.
        self.request(abi.SET_SIGNAL_MASK, bytearray(abi.SignalMask(len=8)) + bytearray(c_uint64(mask)))

    def run(self) -> Exit:
        """Let the vCPU run until it needs something. Raises IoctlFailed, with EINTR when a signal ended it."""
        self.request(abi.RUN)
        return self._exit()

    def close(self) -> None:
        """Unmap the shared page and close the descriptor."""
        self._shared.close()
        super().close()

    def _exit(self) -> Exit:
        run = abi.Run.from_buffer_copy(self._shared)
        match run.exit_reason:
            case abi.ExitReason.IO:
                return self._port_exit(abi.RunIo.from_buffer_copy(run.exit_data))
            case abi.ExitReason.FAIL_ENTRY | abi.ExitReason.INTERNAL_ERROR | abi.ExitReason.UNKNOWN:
                # Each of the three unions begins with its code: hardware_entry_failure_reason, suberror,
                # hardware_exit_reason. A suberror has 32 bits and a count behind it, hence only the low half.
                return Exit(run.exit_reason, code=c_uint32.from_buffer_copy(run.exit_data).value)
            case reason:
                return Exit(reason)

    def _port_exit(self, io: abi.RunIo) -> Exit:
        if io.direction != abi.IO_OUT:
            return Exit(abi.ExitReason.IO, port=io.port)
        # A slice of the mapping ends where the mapping ends, whatever the offset says.
        data = self._shared[io.data_offset : io.data_offset + io.size * io.count]
        return Exit(abi.ExitReason.IO, port=io.port, data=data)
