"""An error that ends a wait says what became of the machine: real ones, ended and failed in every way at hand."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import kvmctl
from kvmctl import DeadlineExceeded, LaunchFailed, NotFound, NotRunning, Roots, VerdictKind, WaitFailed, find_verdict
from kvmctl.errors import AgentError, ImageBusy
from kvmctl.runtime.waiting import meet

from .conftest import tiny

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("roots")]


async def test_waiting_in_vain_tells_what_the_firmware_said() -> None:
    async with kvmctl.launch(tiny(firmware="bios", boot={}, disks=[{"size": "1MiB"}])) as vm:
        await vm.wait_for_console("No bootable device")
        with pytest.raises(DeadlineExceeded, match="wait for a login") as error:
            async with vm.within(0.1, "wait for a login"):
                await vm.wait_for_console("login:")
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.NOTHING_TO_BOOT
        assert "  | No bootable device." in str(error.value)


async def test_a_guest_that_powers_off_ends_the_wait_with_that() -> None:
    async with kvmctl.launch(tiny(cmdline="off")) as vm:
        with pytest.raises(NotRunning, match="ended before 'never' on the console") as error:
            await vm.wait_for_console("never")
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.POWERED_OFF


@pytest.mark.parametrize("wait", ["agent", "event", "console"])
async def test_a_qemu_that_somebody_killed_ends_every_wait_with_that(wait: str) -> None:
    async with kvmctl.launch(tiny(agent={"transport": "virtio"})) as vm:
        await vm.wait_for_console("READY")
        waits = {
            "agent": vm.wait_for_agent,
            "event": lambda: vm.wait_for_event("SUSPEND"),
            "console": lambda: vm.wait_for_console("never"),
        }
        waiting = asyncio.ensure_future(waits[wait]())
        await asyncio.sleep(0)
        os.kill(vm.pid, signal.SIGKILL)
        with pytest.raises(NotRunning) as error:
            await waiting
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.QEMU_KILLED
        assert "it was not kvmctl" in error.value.verdict.summary


async def test_an_agent_that_never_speaks_is_what_the_verdict_says() -> None:
    async with kvmctl.launch(tiny(agent={"transport": "virtio"})) as vm:
        await vm.wait_for_console("READY")
        with pytest.raises(DeadlineExceeded) as error:
            async with vm.within(0.1, "wait for the agent"):
                await vm.wait_for_agent()
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.AGENT_ABSENT
        assert error.value.verdict.evidence[-1] == "READY"


async def test_a_guest_that_has_crashed_is_told_from_one_that_is_slow() -> None:
    async with kvmctl.launch(tiny(cmdline="panic", on_crash="pause")) as vm:
        await vm.wait_for_event("STOP") if (await vm.status()).state != "panicked" else None
        with pytest.raises(AgentError) as error:
            await vm.exec(["true"])
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.KERNEL_PANIC


async def test_a_deadline_of_the_callers_own_passes_through() -> None:
    async with kvmctl.launch(tiny()) as vm:
        with pytest.raises(TimeoutError):
            async with vm.within(60, "do something else"):
                raise TimeoutError


async def test_a_command_line_that_qemu_refuses_is_named_so() -> None:
    with pytest.raises(LaunchFailed) as error:
        async with kvmctl.launch(tiny(extra_args=["-device", "nonsense"])):
            pass
    assert error.value.verdict is not None
    assert error.value.verdict.kind is VerdictKind.QEMU_REFUSED
    assert "'nonsense' is not a valid device model name" in error.value.verdict.evidence[-1]


async def test_a_locked_image_names_its_holder(tmp_path: Path) -> None:
    disks = [{"path": str(tmp_path / "disk.qcow2"), "size": "1MiB"}]
    async with kvmctl.launch(tiny(disks=disks)) as vm:
        with pytest.raises(ImageBusy) as error:
            async with kvmctl.launch(tiny(disks=disks)):
                pass
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.IMAGE_LOCKED
        assert str(vm.pid) in str(error.value)


async def test_a_machine_can_be_judged_after_its_end() -> None:
    async with await kvmctl.start(tiny(cmdline="deaf")) as vm:
        assert find_verdict("web").kind in {VerdictKind.SILENT, VerdictKind.UNKNOWN}
        await vm.kill()
    found = find_verdict("web")
    assert found.kind is VerdictKind.QEMU_KILLED
    assert found.summary == "QEMU was killed by `kvmctl kill`"


async def test_what_a_panicked_guest_can_not_come_to_any_more_says_that_it_panicked() -> None:
    async with await kvmctl.start(tiny(cmdline="panic", on_crash="pause")) as vm:
        with pytest.raises(WaitFailed, match="panicked before event:SUSPEND") as error:
            await kvmctl.wait_for("web", kvmctl.parse_condition("event:SUSPEND"))
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.KERNEL_PANIC
        assert error.value.verdict.evidence[-1] == "PANIC"
        await vm.kill()


async def test_what_a_machine_ends_before_it_came_to_says_how_it_ended() -> None:
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_console("READY")
        waiting = asyncio.ensure_future(meet(vm, kvmctl.parse_condition("event:SUSPEND")))
        os.kill(vm.pid, signal.SIGKILL)
        with pytest.raises(NotRunning) as error:
            await waiting
        assert error.value.verdict is not None
        assert error.value.verdict.kind is VerdictKind.QEMU_KILLED


async def test_a_machine_that_ended_before_anybody_waited_for_it_says_how() -> None:
    async with await kvmctl.start(tiny(cmdline="off")) as vm:
        await vm.wait()
    with pytest.raises(NotRunning) as error:
        await kvmctl.wait_for("web", kvmctl.parse_condition("console:never"))
    assert error.value.verdict is not None
    assert error.value.verdict.kind is VerdictKind.POWERED_OFF


async def test_a_template_whose_guest_panics_says_so_while_it_can_be_looked_at(roots: Roots) -> None:
    seen: list[tuple[str, str]] = []

    async def look(vm: kvmctl.Vm) -> None:
        seen.append((vm.console_text(), (await vm.status()).state))

    with pytest.raises(WaitFailed, match="panicked before console:never") as error:
        await kvmctl.create_template(
            "small", tiny(cmdline="panic", on_crash="pause"), until="console:never", on_failure=look
        )
    assert error.value.verdict is not None
    assert error.value.verdict.kind is VerdictKind.KERNEL_PANIC
    ((console, state),) = seen
    assert "PANIC" in console
    assert state == "panicked"
    assert kvmctl.list_machines(include_stopped=True) == []
    assert os.listdir(roots.runtime) == []


def test_a_machine_that_never_ran_has_no_verdict() -> None:
    kvmctl.create("web", {})
    with pytest.raises(NotFound, match="'web' has not run yet"):
        find_verdict("web")
