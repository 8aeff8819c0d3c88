"""The self-test: what it says of KVMs that work, refuse, calculate wrongly, or never come back."""

from __future__ import annotations

import errno
import signal
import threading
from dataclasses import replace
from queue import SimpleQueue

import pytest

from kvmctl.ioctl import abi, selftest
from kvmctl.ioctl.abi import ExitReason, Request
from kvmctl.ioctl.device import Exit, Kvm
from kvmctl.ioctl.selftest import PORT, SelfTest, self_test
from kvmctl.testing.fakekvm import FakeKvm


def try_fake(fake: FakeKvm, *, patience: float = 1.0) -> SelfTest:
    with Kvm.open(fake.path, ioctl=fake.ioctl) as kvm:
        return self_test(kvm, patience=patience)


def test_a_working_kvm_runs_the_guest_to_its_end(kvm: Kvm) -> None:
    result = self_test(kvm)
    assert (result.creates_vm, result.creates_vcpu, result.runs_code, result.reason) == (True, True, True, "")
    assert result.exits == ("IO", "HLT")
    assert 0 < result.run_us <= result.total_us


def test_it_can_be_repeated(kvm: Kvm) -> None:
    assert all(self_test(kvm).runs_code for _ in range(5))


def test_it_runs_on_any_thread_and_leaves_the_signal_mask_alone(kvm: Kvm) -> None:
    results: SimpleQueue[tuple[SelfTest, bool]] = SimpleQueue()

    def run() -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        result = self_test(kvm)
        results.put((result, signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, is_mask_unchanged = results.get_nowait()
    assert result.runs_code
    assert is_mask_unchanged


def test_a_guest_that_never_stops_is_taken_off_the_cpu(real_kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "CODE", bytes.fromhex("ebfe"))  # jmp $
    before = threading.active_count()
    result = self_test(real_kvm, patience=0.05)
    assert result.reason == "the guest was still running after 0.05 s"
    assert not result.runs_code
    assert threading.active_count() == before
    assert not signal.sigpending()


def test_a_signal_that_is_somebody_elses_business_does_not_fail_the_test() -> None:
    fake = FakeKvm()
    interruptions = iter([OSError(errno.EINTR, "interrupted"), OSError(errno.EINTR, "interrupted")])

    def interrupted_twice(fd: int, request: int, argument: int | bytearray, /) -> int:
        if request == abi.RUN.number and (error := next(interruptions, None)):
            raise error
        return fake.ioctl(fd, request, argument)

    with Kvm.open(fake.path, ioctl=interrupted_twice) as kvm:
        assert self_test(kvm).runs_code


def test_a_kvm_that_is_only_ever_interrupted_is_given_up() -> None:
    result = try_fake(FakeKvm(refuses={abi.RUN: errno.EINTR}), patience=0.01)
    assert (result.runs_code, result.reason) == (False, "the guest was still running after 0.01 s")
    assert not signal.sigpending()


def test_a_guest_that_faults_is_no_proof(real_kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "CODE", bytes.fromhex("0f0b"))  # ud2, and no handler
    result = self_test(real_kvm)
    assert not result.runs_code
    assert result.reason.startswith("the guest ended with ")


@pytest.mark.parametrize(
    ("refused", "number", "reached", "reason"),
    [
        (abi.CREATE_VM, errno.EBUSY, (False, False), "KVM_CREATE_VM: Device or resource busy"),
        (abi.CREATE_VM, errno.ENOMEM, (False, False), "KVM_CREATE_VM: Cannot allocate memory"),
        (abi.CREATE_VCPU, errno.EINVAL, (True, False), "KVM_CREATE_VCPU: Invalid argument"),
        (abi.SET_SREGS, errno.EINVAL, (True, True), "KVM_SET_SREGS: Invalid argument"),
        (abi.RUN, errno.EFAULT, (True, True), "KVM_RUN: Bad address"),
    ],
)
def test_it_says_how_far_it_came(refused: Request, number: int, reached: tuple[bool, bool], reason: str) -> None:
    result = try_fake(FakeKvm(refuses={refused: number}))
    assert (result.creates_vm, result.creates_vcpu) == reached
    assert (result.runs_code, result.reason) == (False, reason)


@pytest.mark.parametrize(
    ("exits", "reason"),
    [
        ([Exit(ExitReason.FAIL_ENTRY, code=0x80000021)], "the guest ended with FAIL_ENTRY with code 0x80000021"),
        ([Exit(ExitReason.INTERNAL_ERROR, code=1)], "the guest ended with INTERNAL_ERROR with code 0x1"),
        ([Exit(ExitReason.SHUTDOWN)], "the guest ended with SHUTDOWN"),
        ([Exit(ExitReason.HLT)], "the guest halted before it wrote its result"),
        ([Exit(ExitReason.IO, port=PORT, data=b"\x34\x12")], "the guest wrote 3412 to port 0xe9"),
        ([Exit(ExitReason.IO, port=0x80, data=b"\x55\x55")], "the guest wrote 5555 to port 0x80"),
    ],
)
def test_a_wrong_result_is_told_with_what_came_instead(exits: list[Exit], reason: str) -> None:
    result = try_fake(FakeKvm(exits=exits))
    assert not result.runs_code
    assert result.reason.startswith(reason)


def test_a_register_that_kvm_announces_and_does_not_take_is_told() -> None:
    assert try_fake(FakeKvm(msrs={0x10A: 1})).refused_msrs == ()
    assert try_fake(FakeKvm(msrs={0x10A: 1}, fixed_msrs=frozenset({0x10A}))).refused_msrs == ("arch-capabilities",)


@pytest.mark.parametrize("fake", [FakeKvm(msrs={0x10A: 0}), FakeKvm(refuses={abi.GET_MSRS: errno.EINVAL}), FakeKvm()])
def test_what_kvm_does_not_announce_is_not_tried(fake: FakeKvm) -> None:
    result = try_fake(fake)
    assert result.runs_code
    assert result.refused_msrs == ()
    assert abi.SET_MSRS.name not in fake.asked


def test_another_architecture_is_told_without_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = selftest.os.uname()
    monkeypatch.setattr(selftest.os, "uname", lambda: type(machine)((*machine[:4], "aarch64")))
    fake = FakeKvm()
    result = try_fake(fake)
    assert result == replace(SelfTest(), reason="this is aarch64, whose KVM runs no x86 guest")
    assert fake.asked == []
