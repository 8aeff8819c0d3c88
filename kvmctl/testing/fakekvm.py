"""A KVM of your choosing behind the one call that reaches the kernel; kvmctl's own tests hold it against a real one.

::

    fake = FakeKvm(capabilities={Cap.USER_MEMORY: 1})
    with Kvm.open(fake.path, ioctl=fake.ioctl) as kvm:
        assert kvm.check(Cap.USER_MEMORY)

Descriptors are real (``/dev/null`` stands for ``/dev/kvm``, memory files for VMs and vCPUs), so closing, mapping and
leaking them is real too. It is strict: a request on the wrong kind of descriptor, or one it does not know, is refused
with ENOTTY as the kernel does.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final, Literal, TypeAlias

from kvmctl.ioctl import abi
from kvmctl.ioctl.abi import ExitReason, Request
from kvmctl.ioctl.caps import Cap
from kvmctl.ioctl.cpuid import CpuidEntry
from kvmctl.ioctl.device import Exit
from kvmctl.ioctl.selftest import ADDENDS, PORT

Kind: TypeAlias = Literal["kvm", "vm", "vcpu"]

_VCPU_MMAP: Final = 0x2000
_DATA_OFFSET: Final = 0x1000
"""Where the shared memory of a vCPU holds what the guest wrote to a port."""
_EXIT_REASON_AT: Final = 8
_UNION_AT: Final = 32

ORDINARY_CAPABILITIES: Final[Mapping[Cap, int]] = {
    Cap.IRQCHIP: 1,
    Cap.USER_MEMORY: 1,
    Cap.SET_TSS_ADDR: 1,
    Cap.EXT_CPUID: 1,
    Cap.NR_VCPUS: 4,
    Cap.NR_MEMSLOTS: 32764,
    Cap.DESTROY_MEMORY_REGION_WORKS: 1,
    Cap.JOIN_MEMORY_REGIONS_WORKS: 1,
    Cap.SET_IDENTITY_MAP_ADDR: 1,
    Cap.MAX_VCPUS: 4096,
    Cap.X86_SMM: 1,
    Cap.MAX_VCPU_ID: 4096,
    Cap.GET_MSR_FEATURES: 1,
    Cap.NESTED_STATE: 16384,
}

SELF_TEST_EXITS: Final = (
    Exit(ExitReason.IO, port=PORT, data=struct.pack("<H", sum(ADDENDS))),
    Exit(ExitReason.HLT),
)
"""What a CPU that calculates rightly does with the self-test's guest."""


@dataclass
class FakeKvm:
    """Answers ioctls as KVM would on the host you describe."""

    api_version: int = abi.API_VERSION
    capabilities: Mapping[Cap, int] = field(default_factory=lambda: dict(ORDINARY_CAPABILITIES))
    cpuid: Sequence[CpuidEntry] = ()
    msrs: Mapping[int, int | None] = field(default_factory=dict)
    """The feature registers; None for one that is listed and can't be read."""
    fixed_msrs: frozenset[int] = frozenset()
    """Registers that nobody may set."""
    exits: Iterable[Exit] = SELF_TEST_EXITS
    """What KVM_RUN ends with, one after another and over again."""
    refuses: Mapping[Request, int] = field(default_factory=dict)
    """Requests that fail, each with its errno."""
    path: str = os.devnull
    """What to open in place of ``/dev/kvm``."""
    asked: list[str] = field(default_factory=list)
    """The requests made so far, by name."""

    def __post_init__(self) -> None:
        self._exits = cycle(self.exits)

    def ioctl(self, fd: int, request: int, argument: int | bytearray, /) -> int:
        """Stands in for ``fcntl.ioctl``."""
        known, answer = self._handler(_kind(fd), request)
        self.asked.append(known.name)
        if known in self.refuses:
            raise _os_error(self.refuses[known])
        return answer(fd, argument)

    def _handler(self, kind: Kind, request: int) -> tuple[Request, Callable[[int, int | bytearray], int]]:
        handlers: dict[Kind, dict[Request, Callable[[int, int | bytearray], int]]] = {
            "kvm": {
                abi.GET_API_VERSION: lambda _fd, _argument: self.api_version,
                abi.CHECK_EXTENSION: self._check_extension,
                abi.GET_VCPU_MMAP_SIZE: lambda _fd, _argument: _VCPU_MMAP,
                abi.GET_SUPPORTED_CPUID: self._get_supported_cpuid,
                abi.GET_MSR_FEATURE_INDEX_LIST: self._get_msr_feature_index_list,
                abi.GET_MSRS: self._get_msrs,
                abi.CREATE_VM: lambda _fd, _argument: _make("vm"),
            },
            "vm": {
                abi.CHECK_EXTENSION: self._check_extension,
                abi.SET_TSS_ADDR: _accept,
                abi.SET_IDENTITY_MAP_ADDR: _accept,
                abi.SET_USER_MEMORY_REGION: _accept,
                abi.CREATE_VCPU: lambda _fd, _argument: _make("vcpu"),
            },
            "vcpu": {
                abi.GET_REGS: _accept,
                abi.SET_REGS: _accept,
                abi.GET_SREGS: _accept,
                abi.SET_SREGS: _accept,
                abi.SET_CPUID2: _accept,
                abi.SET_MSRS: self._set_msrs,
                abi.SET_SIGNAL_MASK: _accept,
                abi.RUN: self._run,
            },
        }
        for known, answer in handlers[kind].items():
            if known.number == request:
                return known, answer
        raise _os_error(errno.ENOTTY)

    def _check_extension(self, _fd: int, argument: int | bytearray) -> int:
        is_known = argument in Cap.__members__.values()
        return self.capabilities.get(Cap(int(argument)), 0) if is_known else 0

    def _get_supported_cpuid(self, _fd: int, argument: int | bytearray) -> int:
        buffer = _buffer(argument)
        if struct.unpack_from("<I", buffer)[0] < len(self.cpuid):
            raise _os_error(errno.E2BIG)
        struct.pack_into("<I", buffer, 0, len(self.cpuid))
        for place, leaf in enumerate(self.cpuid):
            registers = (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx)
            struct.pack_into("<7I", buffer, 8 + 40 * place, leaf.function, leaf.index, 0, *registers)
        return 0

    def _get_msr_feature_index_list(self, _fd: int, argument: int | bytearray) -> int:
        buffer = _buffer(argument)
        (room,) = struct.unpack_from("<I", buffer)
        struct.pack_into("<I", buffer, 0, len(self.msrs))
        if room < len(self.msrs):
            raise _os_error(errno.E2BIG)
        struct.pack_into(f"<{len(self.msrs)}I", buffer, 4, *self.msrs)
        return 0

    def _get_msrs(self, _fd: int, argument: int | bytearray) -> int:
        buffer = _buffer(argument)
        (count,) = struct.unpack_from("<I", buffer)
        for place in range(count):
            (index,) = struct.unpack_from("<I", buffer, 8 + 16 * place)
            value = self.msrs.get(index)
            if value is None:
                return place
            struct.pack_into("<Q", buffer, 16 + 16 * place, value)
        return int(count)

    def _set_msrs(self, _fd: int, argument: int | bytearray) -> int:
        buffer = _buffer(argument)
        (count,) = struct.unpack_from("<I", buffer)
        indices = [struct.unpack_from("<I", buffer, 8 + 16 * place)[0] for place in range(count)]
        return next((place for place, index in enumerate(indices) if index in self.fixed_msrs), count)

    def _run(self, fd: int, _argument: int | bytearray) -> int:
        leaving = next(self._exits)
        if leaving.reason == ExitReason.IO:
            union = struct.pack("<BBHIQ", abi.IO_OUT, len(leaving.data), leaving.port, 1, _DATA_OFFSET)
            os.pwrite(fd, leaving.data, _DATA_OFFSET)
        else:
            union = struct.pack("<Q", leaving.code)
        os.pwrite(fd, struct.pack("<I", leaving.reason), _EXIT_REASON_AT)
        os.pwrite(fd, union, _UNION_AT)
        return 0


def _make(kind: Kind) -> int:
    fd = os.memfd_create(f"fake-{kind}", os.MFD_CLOEXEC)
    os.ftruncate(fd, _VCPU_MMAP)
    return fd


def _kind(fd: int) -> Kind:
    """What a descriptor is, from the name it was made with: numbers are used again as soon as they are closed."""
    match Path(f"/proc/self/fd/{fd}").readlink().name.split():
        case ["memfd:fake-vm", *_]:
            return "vm"
        case ["memfd:fake-vcpu", *_]:
            return "vcpu"
        case _:
            return "kvm"


def _accept(_fd: int, _argument: int | bytearray) -> int:
    return 0


def _buffer(argument: int | bytearray) -> bytearray:
    if isinstance(argument, int):
        raise _os_error(errno.EFAULT)
    return argument


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
