"""The words, spoken to a Linux; run by test_words.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kvmctl import CommandFailed, CopyFailed, DeadlineExceeded, ExitReason, NotFound, NotRunning, WaitFailed
from kvmctl.testing import AsyncGuest, Guest


def test_commands_succeed_and_fail(vm: Guest) -> None:
    assert vm.succeed("echo one", "echo two") == "one\ntwo\n"
    assert vm.fail("echo lost; false") == "lost\n"
    assert vm.execute("echo said; exit 3") == (3, "said\n")
    with pytest.raises(CommandFailed, match=r"'echo why >&2; exit 4' failed with exit code 4 in 'test-commands"):
        vm.succeed("echo why >&2; exit 4")
    with pytest.raises(CommandFailed, match=r"'true' succeeded, and had to fail"):
        vm.fail("true")
    with pytest.raises(DeadlineExceeded, match=r"gave up after 0\.5 s: wait for 'sleep 60' to end"):
        vm.succeed("sleep 60", timeout=0.5)
    vm.wait_until_fails("pidof sleep")


def test_waits_end_when_it_is_so(vm: Guest) -> None:
    vm.succeed("(sleep 1; echo content >/tmp/late) >/dev/null 2>&1 &")
    assert vm.wait_until_succeeds("cat /tmp/late") == "content\n"
    assert vm.wait_until_fails("echo gone; test ! -e /tmp/late") == "gone\n"
    vm.succeed("(sleep 1; touch /tmp/file) >/dev/null 2>&1 &")
    vm.wait_for_file("/tmp/file")
    vm.succeed("(sleep 1; nc -l -p 4000) >/dev/null 2>&1 &")
    vm.wait_for_open_port(4000)
    vm.succeed("echo on the console >/dev/console")
    assert vm.wait_for_console_text("on the .onsole").endswith("on the console")
    vm.wait_for_agent()


def test_who_gives_up_is_told_what_was_seen(vm: Guest) -> None:
    with pytest.raises(DeadlineExceeded) as failed:
        vm.wait_until_succeeds("echo not yet; exit 7", timeout=2)
    assert failed.value.detail == "last seen: exit code 7: not yet"
    with pytest.raises(WaitFailed, match="has no systemctl"):
        vm.wait_for_unit("sshd.service")
    with pytest.raises(DeadlineExceeded, match=r"wait for port 4000\nlast seen: (?:.*\n)*listening: nothing"):
        vm.wait_for_open_port(4000, timeout=2)


def test_files_are_copied_both_ways(vm: Guest, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 8_000)
    big.chmod(0o751)
    vm.copy_to_guest(big, "/tmp/new/place")
    assert vm.succeed("stat -c '%a %s' /tmp/new/place") == f"751 {big.stat().st_size}\n"
    vm.copy_from_guest("/tmp/new/place", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below/file").write_text("text")
    (tree / "link").symlink_to("below/file")
    vm.copy_to_guest(tree, "/tmp/tree")
    assert vm.succeed("cat /tmp/tree/link") == "text"
    assert vm.succeed("ls -A /tmp") == "new\ntree\n"
    vm.copy_from_guest("/tmp/tree", tmp_path / "new")
    assert (tmp_path / "new/link").read_text() == "text"
    with pytest.raises(CopyFailed, match="there is no '/no/such'"):
        vm.copy_from_guest("/no/such", tmp_path)
    with pytest.raises(NotFound, match="nothing"):
        vm.copy_to_guest(tmp_path / "nothing", "/tmp")
    vm.copy_from_guest("/tmp/new/place", tmp_path)
    assert (tmp_path / "place").exists()


def test_cables_are_pulled_and_plugged(vm: Guest) -> None:
    carrier = "cat /sys/class/net/eth0/carrier"
    assert vm.succeed(carrier) == "1\n"
    vm.block()
    vm.wait_until_succeeds(f"test $({carrier}) = 0")
    vm.unblock()
    vm.wait_until_succeeds(f"test $({carrier}) = 1")


def test_a_crash_is_the_end(vm: Guest) -> None:
    vm.crash()
    assert vm.wait_for_shutdown().reason is ExitReason.KILLED
    with pytest.raises(NotRunning):
        vm.succeed("true")


def test_a_reboot_forgets_what_was_in_memory(vm: Guest) -> None:
    vm.succeed("touch /tmp/before")
    vm.reboot()
    vm.fail("test -e /tmp/before")


def test_a_shutdown_is_the_guests_own(vm: Guest) -> None:
    assert vm.shutdown().reason is ExitReason.GUEST_SHUTDOWN


@pytest.mark.vm(video="std")
def test_keys_arrive_and_the_display_is_shown(vm: Guest, tmp_path: Path) -> None:
    interrupts = "awk '/i8042/ { n += $2 } END { print n + 0 }' /proc/interrupts"
    before = int(vm.succeed(interrupts))
    vm.send_chars("aB\n")
    vm.send_key("ctrl-c")
    vm.wait_until_succeeds(f"test $({interrupts}) -gt {before}")
    vm.screenshot(tmp_path / "shown.png")
    assert (tmp_path / "shown.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.vm(hostname="called", run=["echo before >/tmp/made"])
def test_a_fork_has_its_name_and_what_was_run_before_it_was_frozen(vm: Guest) -> None:
    assert vm.succeed("hostname", "cat /tmp/made") == "called\nbefore\n"


@pytest.mark.asyncio
async def test_the_same_words_are_to_be_awaited(async_vm: AsyncGuest, tmp_path: Path) -> None:
    assert await async_vm.succeed("echo one") == "one\n"
    both = await asyncio.gather(async_vm.fail("false"), async_vm.wait_until_succeeds("echo two"))
    assert both == ["", "two\n"]
    await async_vm.copy_from_guest("/etc/hostname", tmp_path / "name")
    assert (tmp_path / "name").exists()
