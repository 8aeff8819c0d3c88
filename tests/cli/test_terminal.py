"""``run`` and ``console``: this terminal on a machine's console, and who outlives whom."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from .conftest import PATIENCE, PROGRAM, Kvmctl

pytestmark = pytest.mark.qemu

LEAVE = b"\x1d"


class Terminal:
    """A terminal with ``kvmctl`` in its foreground: what a person would see and type."""

    def __init__(self, leader: int, follower: int, process: subprocess.Popen[str]) -> None:
        self.leader = leader
        self.follower = follower
        self.process = process
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self.leader, keys)

    def expect(self, pattern: bytes) -> None:
        """Read until `pattern` was printed."""
        while not (match := re.search(pattern, self.seen)):
            assert select.select([self.leader], [], [], PATIENCE)[0], f"{pattern!r} did not come: {self.seen!r}"
            self.seen += os.read(self.leader, 65536)
        self.seen = self.seen[match.end() :]

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self.leader)
        os.close(self.follower)
        self.leader = self.follower = -1

    def wait(self) -> int:
        return self.process.wait(timeout=PATIENCE)


@contextmanager
def terminal(kvmctl: Kvmctl, *words: str) -> Iterator[Terminal]:
    """``kvmctl`` with `words` on a terminal of its own, which is its controlling one."""
    leader, follower = pty.openpty()
    attach = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", attach, *PROGRAM, *words],
        env=kvmctl.environment,
        cwd=kvmctl.directory,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        text=True,
        start_new_session=True,
    )
    held = Terminal(leader, follower, process)
    try:
        yield held
    finally:
        process.kill()
        process.wait()
        for descriptor in (held.leader, held.follower):
            with suppress(OSError):
                os.close(descriptor)


def run_and_type(kvmctl: Kvmctl, keys: str, *, status: int) -> tuple[str, str]:
    """What ``kvmctl run tiny`` prints, with `keys` typed when the guest listens, and that it exits with `status`."""
    with kvmctl.popen("run", "tiny", "--name", "web") as process:
        kvmctl.ok("wait", "web", "--for", "running")
        kvmctl.ok("wait", "web", "--for", "console:^READY")
        shown, talk = process.communicate(keys, timeout=PATIENCE)
    assert process.returncode == status, talk
    return shown, talk


def test_run_shows_the_console_from_its_first_line_and_leaves_nothing(kvmctl: Kvmctl) -> None:
    shown, _ = run_and_type(kvmctl, "q", status=0)
    assert re.search(r"KVMCTL-TINY .*\n+READY\n+OFF", shown)
    assert kvmctl.ok("list", "--all", "--quiet") == ""
    assert os.listdir(kvmctl.directory / "runtime") == []


def test_the_status_the_guest_chose_becomes_that_of_run(kvmctl: Kvmctl) -> None:
    run_and_type(kvmctl, "x", status=33)


def test_a_guest_that_panicked_fails_run(kvmctl: Kvmctl) -> None:
    _, talk = run_and_type(kvmctl, "p", status=1)
    assert "guest-panic" in talk


def test_the_key_to_leave_ends_what_runs_in_the_foreground(kvmctl: Kvmctl) -> None:
    with terminal(kvmctl, "run", "tiny") as held:
        held.expect(b"READY")
        before = termios.tcgetattr(held.follower)
        assert not before[3] & termios.ICANON  # raw: every key is the guest's
        held.type(b"a\x03")
        held.expect(b"<a>")
        held.expect(b"<\x03>")
        held.type(LEAVE)
        assert held.wait() == 0
        assert termios.tcgetattr(held.follower)[3] & termios.ICANON
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_run_dies_with_its_terminal(kvmctl: Kvmctl) -> None:
    with terminal(kvmctl, "run", "tiny") as held:
        held.expect(b"READY")
        held.hang_up()
        held.wait()
    assert kvmctl.ok("list", "--all", "--quiet") == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_guest_to_power_down(kvmctl: Kvmctl, number: signal.Signals) -> None:
    with kvmctl.popen("run", "tiny", "--name", "web") as process:
        kvmctl.ok("wait", "web", "--for", "running")
        kvmctl.ok("wait", "web", "--for", "console:^READY")
        process.send_signal(number)
        shown, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert "OFF" in shown


def test_a_second_signal_does_not_ask(kvmctl: Kvmctl) -> None:
    with kvmctl.popen("run", "tiny", "--name", "web") as process:
        kvmctl.ok("wait", "web", "--for", "running")
        kvmctl.ok("wait", "web", "--for", "console:^READY")
        with open(f"/proc/{process.pid}/fd/0", "w") as keyboard:
            keyboard.write("h")  # hangs for good
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)  # far less than a guest is given
        assert process.returncode == 0
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_sigkill_of_run_takes_the_machine_with_it(kvmctl: Kvmctl) -> None:
    with kvmctl.popen("run", "tiny", "--name", "web") as process:
        kvmctl.ok("wait", "web", "--for", "running")
        process.kill()
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_run_ends_after_the_time_it_was_given(kvmctl: Kvmctl) -> None:
    done = kvmctl("run", "tiny", "--timeout", "0.5")
    assert done.returncode == 10
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_run_with_a_command_says_when_it_did_not_come_to_it(kvmctl: Kvmctl) -> None:
    assert kvmctl("run", "tiny", "--", "true").returncode == 125  # this guest's agent runs no commands
    assert kvmctl("run", "nothing", "--", "true").returncode == 125


def test_leaving_a_console_leaves_the_machine_running(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny")
    kvmctl.ok("wait", "tiny", "--for", "console:^READY")
    with terminal(kvmctl, "console", "tiny") as held:
        held.expect(b"Ctrl-]")
        held.type(b"ab")
        held.expect(b"<b>")
        held.type(LEAVE)
        held.expect(b"\nleft 'tiny', which runs on")
        assert held.wait() == 0
    assert kvmctl.ok("list", "--quiet") == "tiny\n"
    kvmctl.ok("kill", "tiny")


def test_a_console_without_a_log_is_shown_as_it_speaks(kvmctl: Kvmctl) -> None:
    spec = "memory = '16MiB'\nfirmware = 'qboot.rom'\nserials = [{ log = false }]\n[boot]\nkernel = 'builtin:tiny'\n"
    (kvmctl.directory / "mute.toml").write_text(spec)
    kvmctl.ok("start", "./mute.toml")
    with terminal(kvmctl, "console", "mute") as held:
        held.expect(b"Ctrl-]")
        held.type(b"a")
        held.expect(b"<a>")
        held.type(b"q")
        assert held.wait() == 0


def test_one_terminal_at_a_time_can_type(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny")
    with terminal(kvmctl, "console", "tiny") as held:
        held.expect(b"Ctrl-]")
        done = kvmctl("console", "tiny")
        assert done.returncode == 7
        assert f"in use by process {held.process.pid}" in done.stderr
        assert "kvmctl logs -f tiny" in done.stderr
    kvmctl.ok("kill", "tiny")


def test_a_console_ends_with_its_machine(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny")
    kvmctl.ok("wait", "tiny", "--for", "console:^READY")
    done = kvmctl("console", "tiny", stdin="aq")
    assert done.returncode == 0
    assert re.search(r"<a>\s+OFF", done.stdout)
    assert "has ended" in done.stderr
