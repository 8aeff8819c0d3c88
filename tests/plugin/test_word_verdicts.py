"""Whoever waits in vain with one of the words is told what became of the machine."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from runtime.conftest import tiny

import kvmctl
from kvmctl import DeadlineExceeded, NotRunning, VerdictKind
from kvmctl.errors import AgentError
from kvmctl.testing import AsyncGuest

pytestmark = pytest.mark.qemu

Word = Callable[[AsyncGuest], Awaitable[object]]
OF_THE_AGENT: dict[str, Word] = {
    "execute": lambda guest: guest.execute("true", timeout=0.1),
    "succeed": lambda guest: guest.succeed("true", timeout=0.1),
    "fail": lambda guest: guest.fail("false", timeout=0.1),
    "wait_until_succeeds": lambda guest: guest.wait_until_succeeds("true", timeout=0.1),
    "wait_until_fails": lambda guest: guest.wait_until_fails("false", timeout=0.1),
    "wait_for_unit": lambda guest: guest.wait_for_unit("ssh.service", timeout=0.1),
    "wait_for_open_port": lambda guest: guest.wait_for_open_port(22, timeout=0.1),
    "wait_for_file": lambda guest: guest.wait_for_file("/etc/passwd", timeout=0.1),
    "wait_for_console_text": lambda guest: guest.wait_for_console_text("login:", timeout=0.1),
    "wait_for_agent": lambda guest: guest.wait_for_agent(timeout=0.1),
    "wait_for_shutdown": lambda guest: guest.wait_for_shutdown(timeout=0.1),
    "copy_to_guest": lambda guest: guest.copy_to_guest(__file__, "/tmp/it", timeout=0.1),
    "copy_from_guest": lambda guest: guest.copy_from_guest("/etc/passwd", "passwd", timeout=0.1),
    "reboot": lambda guest: guest.reboot(timeout=0.1),
}


@pytest.mark.parametrize("word", OF_THE_AGENT.values(), ids=OF_THE_AGENT)
async def test_a_word_that_waits_in_vain_says_that_the_agent_never_spoke(
    word: Word, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with kvmctl.launch(tiny(agent={"transport": "virtio"})) as vm:
        await vm.wait_for_console("READY")
        with pytest.raises(DeadlineExceeded, match=r"machine 'web-\w+': gave up after 0\.1 s: ") as caught:
            await word(AsyncGuest(vm))
    assert caught.value.verdict is not None
    assert caught.value.verdict.kind is VerdictKind.AGENT_ABSENT
    assert caught.value.verdict.evidence[-1] == "READY"


async def test_a_guest_that_does_not_shut_down_says_how_it_was_ended() -> None:
    async with kvmctl.launch(tiny(cmdline="agent=silent deaf")) as vm:
        await vm.wait_for_console("DEAF")
        with pytest.raises(DeadlineExceeded, match="did not power off within") as caught:
            await AsyncGuest(vm).shutdown(timeout=0.3)
    assert caught.value.verdict is not None
    assert caught.value.verdict.kind in {VerdictKind.QUIT, VerdictKind.QEMU_KILLED}


async def test_a_guest_that_panicked_says_so_to_whoever_asks_it_anything() -> None:
    async with kvmctl.launch(tiny(cmdline="panic", on_crash="pause")) as vm:
        await vm.wait_for_console("PANIC")
        async for event in vm.events():
            if event.name == "STOP":
                break
        with pytest.raises(AgentError) as caught:
            await AsyncGuest(vm).succeed("true")
    assert caught.value.verdict is not None
    assert caught.value.verdict.kind is VerdictKind.KERNEL_PANIC


@pytest.mark.parametrize("word", ["wait_for_console_text", "block", "send_key"])
async def test_a_machine_that_was_killed_says_so_whatever_it_is_asked_for(word: str) -> None:
    async with kvmctl.launch(tiny(networks=[{"type": "user"}])) as vm:
        guest = AsyncGuest(vm)
        asked: dict[str, Callable[[], Awaitable[object]]] = {
            "wait_for_console_text": lambda: guest.wait_for_console_text("never"),
            "block": guest.block,
            "send_key": lambda: guest.send_key("ret"),
        }
        os.kill(vm.pid, signal.SIGKILL)
        await vm.wait()
        with pytest.raises(NotRunning) as caught:
            await asked[word]()
    assert caught.value.verdict is not None
    assert caught.value.verdict.kind is VerdictKind.QEMU_KILLED


async def test_a_reboot_in_vain_leaves_nothing_that_waits_for_it() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        async with kvmctl.launch(tiny(agent={"transport": "virtio"})) as vm:
            before = asyncio.all_tasks()
            with pytest.raises(DeadlineExceeded):
                await AsyncGuest(vm).reboot(timeout=0.1)
            assert asyncio.all_tasks() == before
        gc.collect()
    assert [str(warning.message) for warning in seen] == []


async def test_a_deadline_of_the_callers_own_is_left_to_it() -> None:
    async with kvmctl.launch(tiny()) as vm:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await AsyncGuest(vm).wait_for_console_text("never")
