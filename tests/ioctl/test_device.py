"""The types of descriptors, over the shipped fake and over this host's KVM."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from mmap import PAGESIZE, mmap
from pathlib import Path

import pytest

from kvmctl.ioctl import abi
from kvmctl.ioctl.abi import ExitReason
from kvmctl.ioctl.caps import Cap
from kvmctl.ioctl.cpuid import CpuidEntry
from kvmctl.ioctl.device import Exit, Kvm, Vm
from kvmctl.ioctl.handle import Handle, IoctlFailed
from kvmctl.testing.fakekvm import FakeKvm


@pytest.fixture(autouse=True)
def no_descriptor_leaks() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def test_the_api_version_is_the_stable_one(kvm: Kvm) -> None:
    assert kvm.api_version() == abi.API_VERSION


def test_capabilities_are_those_the_kernel_has(kvm: Kvm) -> None:
    capabilities = kvm.capabilities()
    assert capabilities[Cap.USER_MEMORY] == 1
    assert capabilities[Cap.MAX_VCPUS] >= capabilities[Cap.NR_VCPUS] >= 1
    assert kvm.check(Cap.PPC_SMT) == 0
    assert Cap.PPC_SMT not in capabilities


def test_every_feature_register_listed_is_read(kvm: Kvm) -> None:
    msrs = kvm.feature_msrs()
    assert 0x10A in msrs
    assert all(0 <= value < 1 << 64 for value in msrs.values())


def test_a_machine_is_made_and_closed(kvm: Kvm) -> None:
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert vm.check(Cap.USER_MEMORY) == 1
        assert vcpu.sregs().cr3 == 0


def test_a_request_on_the_wrong_kind_of_descriptor_is_refused(kvm: Kvm) -> None:
    with kvm.create_vm() as vm, pytest.raises(IoctlFailed) as caught:
        vm.request(abi.GET_VCPU_MMAP_SIZE)
    assert caught.value.errno == errno.ENOTTY
    assert str(caught.value) == "KVM_GET_VCPU_MMAP_SIZE: Inappropriate ioctl for device"


def test_memory_stays_mapped_while_a_machine_has_it(kvm: Kvm) -> None:
    memory = mmap(-1, PAGESIZE)
    with kvm.create_vm() as vm:
        vm.add_memory(memory, guest_address=0, slot=0)
        with pytest.raises(BufferError):
            memory.close()
    memory.close()


def test_closing_twice_is_fine(kvm: Kvm) -> None:
    vm = kvm.create_vm()
    vm.close()
    vm.close()


def test_registers_are_kept(real_kvm: Kvm) -> None:
    with real_kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vcpu.set_regs(abi.Regs(rax=0x1234_5678_9ABC, rip=0x10, rflags=2))
        assert (vcpu.regs().rax, vcpu.regs().rip) == (0x1234_5678_9ABC, 0x10)


def test_what_the_kernel_refuses_names_the_request() -> None:
    fake = FakeKvm(refuses={abi.CREATE_VM: errno.EBUSY})
    with Kvm.open(fake.path, ioctl=fake.ioctl) as kvm, pytest.raises(IoctlFailed, match=r"KVM_CREATE_VM: .*busy"):
        kvm.create_vm()


def test_making_a_machine_survives_a_signal() -> None:
    fake = FakeKvm()
    interruptions = iter([OSError(errno.EINTR, "interrupted"), None])

    def interrupted_once(fd: int, request: int, argument: int | bytearray, /) -> int:
        if request == abi.CREATE_VM.number and (error := next(interruptions)):
            raise error
        return fake.ioctl(fd, request, argument)

    with Kvm.open(fake.path, ioctl=interrupted_once) as kvm, kvm.create_vm() as vm:
        assert isinstance(vm, Vm)


def test_a_vcpu_that_can_not_be_mapped_leaves_no_descriptor() -> None:
    fake = FakeKvm()

    def tiny_mmap(fd: int, request: int, argument: int | bytearray, /) -> int:
        return 1 << 40 if request == abi.GET_VCPU_MMAP_SIZE.number else fake.ioctl(fd, request, argument)

    with Kvm.open(fake.path, ioctl=tiny_mmap) as kvm, kvm.create_vm() as vm, pytest.raises((OSError, ValueError)):
        vm.create_vcpu(0)


def test_a_buffer_shorter_than_the_request_announces_never_reaches_the_kernel() -> None:
    fake = FakeKvm()
    with Handle.open(fake.path, ioctl=fake.ioctl) as handle, pytest.raises(ValueError, match="takes 8 bytes, not 4"):
        handle.request(abi.GET_SUPPORTED_CPUID, bytearray(4))
    assert fake.asked == []


def test_a_register_that_is_listed_but_not_readable_is_left_out() -> None:
    fake = FakeKvm(msrs={0x480: 7, 0x491: None})
    with Kvm.open(fake.path, ioctl=fake.ioctl) as kvm:
        assert kvm.feature_msrs() == {0x480: 7}


def test_cpuid_leaves_arrive_whole() -> None:
    leaves = tuple(CpuidEntry(0x8000_0000 + n, n % 3, n, n + 1, n + 2, 0xFFFF_FFFF) for n in range(256))
    fake = FakeKvm(cpuid=leaves)
    with Kvm.open(fake.path, ioctl=fake.ioctl) as kvm:
        assert kvm.supported_cpuid() == leaves


@pytest.mark.parametrize(
    "leaving",
    [
        Exit(ExitReason.HLT),
        Exit(ExitReason.IO, port=0x3F8, data=b"K"),
        Exit(ExitReason.FAIL_ENTRY, code=0x80000021),
        Exit(ExitReason.INTERNAL_ERROR, code=1),
        Exit(99),
    ],
    ids=lambda leaving: leaving.name,
)
def test_an_exit_arrives_with_what_belongs_to_it(leaving: Exit) -> None:
    fake = FakeKvm(exits=[leaving])
    with Kvm.open(fake.path, ioctl=fake.ioctl) as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        assert vcpu.run() == leaving


def test_an_exit_newer_than_our_list_is_called_by_its_number() -> None:
    assert Exit(99).name == "exit 99"


def test_a_missing_device_is_an_error_of_the_operating_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Kvm.open(str(tmp_path / "kvm"))
