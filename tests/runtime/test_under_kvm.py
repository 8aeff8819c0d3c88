"""Machines under KVM, on a host whose KVM lets itself be used: a guest in real mode runs under any."""

from __future__ import annotations

import pytest

import kvmctl
from kvmctl import ExitReason, Machine, Rung, State
from kvmctl.host.kvm import probe

from .conftest import frozen_tiny, tiny

KVM = probe().kvm
pytestmark = [
    pytest.mark.qemu,
    pytest.mark.usefixtures("roots"),
    pytest.mark.skipif(KVM.state != "usable", reason=f"KVM can't be used here: {KVM.reason}"),
]


@pytest.fixture
def machine() -> Machine:
    return tiny(accel="kvm")


async def test_a_machine_runs_and_is_asked_to_end(machine: Machine) -> None:
    async with await kvmctl.start(machine) as vm:
        assert vm.plan.accel == "kvm"
        await vm.wait_for_console("^READY")
        await vm.pause()
        assert (await vm.status()).state is State.PAUSED
        await vm.resume()
        result = await kvmctl.stop(vm, grace=20)
    assert result.rung is Rung.AGENT
    assert result.exit.reason is ExitReason.GUEST_SHUTDOWN


async def test_forks_go_on_where_their_template_was_frozen(machine: Machine) -> None:
    template = await frozen_tiny(machine)
    async with await template.fork() as fork:
        with kvmctl.open_console(fork.name) as console:
            console.send(b"z")
        await fork.wait_for_console("<z>")
        assert "READY" not in fork.console_text()
