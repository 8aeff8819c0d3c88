"""``wait`` for what goes on within a guest, on a real Linux: servers, ports, commands, reboots, and the end."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from sshguest import SERVE, SshGuest

from .conftest import PATIENCE, Kvmctl
from .ssh_machines import BOOT, USER_NETWORK, start

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh: install openssh-client"),
]


@pytest.fixture
def late(kvmctl: Kvmctl, guest: SshGuest) -> Iterator[Kvmctl]:
    """A command line whose machine ``late`` has an agent that answers, and a server that was not started."""
    start(kvmctl, guest, "late")
    kvmctl.ok("wait", "late", "--for", "agent", "--timeout", BOOT)
    yield kvmctl
    kvmctl("kill", "late")


def test_a_port_that_takes_connections_is_no_ssh_server(late: Kvmctl) -> None:
    done = late("wait", "late", "--for", "ssh", "--timeout", "10")
    assert done.returncode == 10
    assert re.search(
        r"^ssh: root@127\.0\.0\.1:\d+ takes connections and hangs up: no ssh server in the guest yet$",
        done.stderr,
        re.MULTILINE,
    )
    assert "the console's last line: " in done.stderr
    done = late("ssh", "late", "true")
    assert done.returncode == 125
    assert "nobody in the guest of 'late' answers as an ssh server" in done.stderr
    assert "kvmctl wait late --for ssh" in done.stderr
    with late.popen("wait", "late", "--for", "ssh", "--for", "port:22") as waiter:
        late.ok("exec", "late", "--", SERVE)
        server, port = waiter.communicate(timeout=PATIENCE)[0].splitlines()
    assert server.startswith("SSH-2.0-dropbear")
    assert port == "port 22 is listened on"


def test_what_is_not_there_yet_is_waited_for_in_the_guest(late: Kvmctl) -> None:
    with late.popen("wait", "late", "--for", "exec:cat /tmp/flag", "--for", "port:7777") as waiter:
        late.ok("exec", "late", "--", "sh", "-c", "echo raised >/tmp/flag; nc -l -p 7777 -e true & sleep 0.1")
        assert waiter.communicate(timeout=PATIENCE)[0] == "raised\nport 7777 is listened on\n"


def test_who_gives_up_is_told_what_was_seen(late: Kvmctl) -> None:
    words = ["--for", "port:80", "--for", "exec:echo not ready >&2; exit 4"]
    done = late("wait", "late", *words, "--timeout", "20")
    assert done.returncode == 10
    assert "gave up after 20 s: wait for port:80, exec:echo not ready" in done.stderr
    assert "port:80: listening: nothing\n" in done.stderr
    assert "exit 4: exit code 4: not ready\n" in done.stderr


@pytest.mark.parametrize("condition", ["unit:nginx.service", "cloud-init"])
def test_what_the_guest_has_no_program_for_is_not_waited_for(late: Kvmctl, condition: str) -> None:
    done = late("wait", "late", "--for", condition)
    assert done.returncode == 16
    assert re.search("the guest of 'late' has no (systemctl|cloud-init)", done.stderr)


def test_a_guest_that_reboots_is_waited_for_again(late: Kvmctl) -> None:
    with late.popen("wait", "late", "--for", "exec:test -e /tmp/second") as waiter:
        late.ok("exec", "late", "--", "touch", "/tmp/first")
        late.ok("reset", "late")
        late.ok("wait", "late", "--for", "exec:test ! -e /tmp/first", "--timeout", BOOT)
        late.ok("exec", "late", "--", "touch", "/tmp/second")
        assert waiter.communicate(timeout=PATIENCE)[0] == "'test -e /tmp/second' succeeded\n"


@pytest.mark.parametrize("condition", ["ssh", "port:80", "exec:false", "agent"])
def test_a_machine_that_ends_is_not_waited_for_any_longer(kvmctl: Kvmctl, guest: SshGuest, condition: str) -> None:
    start(kvmctl, guest, "late")
    with kvmctl.popen("wait", "late", "--for", condition) as waiter:
        kvmctl.ok("wait", "late", "--for", "console:on kernel", "--timeout", BOOT)
        kvmctl.ok("kill", "late")
        _, talk = waiter.communicate(timeout=PATIENCE)
    assert waiter.returncode == 5
    assert "machine 'late'" in talk


def test_a_guest_that_is_reset_under_a_command_through_ssh_is_an_error_at_once(late: Kvmctl) -> None:
    late.ok("exec", "late", "--", SERVE)
    late.ok("wait", "late", "--for", "ssh", "--timeout", BOOT)
    with late.popen("exec", "--via", "ssh", "late", "--", "sh", "-c", "echo started; sleep 1000") as running:
        assert running.stdout is not None
        running.stdout.readline()
        late.ok("reset", "late")
        _, talk = running.communicate(timeout=15)  # not for as long as TCP would try
    assert running.returncode == 125
    assert "was reset, and with it went what ran in it" in talk


def test_start_waits_for_what_it_is_told_to(kvmctl: Kvmctl, guest: SshGuest) -> None:
    spec = kvmctl.directory / "late.toml"
    spec.write_text(guest.spec(tables=USER_NETWORK))
    assert kvmctl.ok("start", "./late.toml", "--wait", "agent", "--timeout", BOOT) == "late\n"
    assert kvmctl.ok("exec", "late", "--", "true") == ""
    kvmctl.ok("kill", "late")
    done = kvmctl("start", "./late.toml", "--wait", "console:never", "--timeout", "0.5")
    assert (done.stdout, done.returncode) == ("late\n", 10)
    assert kvmctl.ok("list", "--quiet") == "late\n"  # it runs on
    kvmctl.ok("kill", "late")
