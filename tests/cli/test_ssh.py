"""Into a guest over ssh, on a real Linux with a real server: keys, exit codes, the ways in, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshguest import SERVE, TOLD, WITH_SERVER, SshGuest

from .conftest import PATIENCE, Done, Kvmctl, command_line_of
from .ssh_machines import BOOT, USER_NETWORK, start

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh: install openssh-client"),
]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, guest: SshGuest) -> Iterator[Kvmctl]:
    """A command line whose machine ``web`` has no agent, and a server that lets in."""
    with command_line_of(tmp_path_factory.mktemp("web"), pytestconfig) as kvmctl:
        start(kvmctl, guest, "web", cmdline=WITH_SERVER, keys="agent = false")
        kvmctl.ok("wait", "web", "--for", "ssh", "--timeout", BOOT)
        yield kvmctl
        kvmctl("kill", "web")


def keys(kvmctl: Kvmctl, name: str = "web") -> Path:
    return kvmctl.directory / "state/machines" / name / "ssh"


def hint(done: Done) -> str:
    return next(line for line in done.stderr.splitlines() if line.startswith("hint: "))


# -- ssh -------------------------------------------------------------------------------------------------------------


def test_a_command_has_its_streams_and_its_exit_code(web: Kvmctl) -> None:
    done = web("ssh", "web", "cat; echo err >&2; exit 7", stdin="in and out\n")
    assert (done.stdout, done.stderr, done.returncode) == ("in and out\n", "err\n", 7)


def test_nobody_is_asked_to_trust_a_key_that_was_made_for_the_machine(web: Kvmctl) -> None:
    before = (keys(web) / "known_hosts").read_bytes()
    assert web.ok("ssh", "web", "--", "id", "-u") == "0\n"
    assert (keys(web) / "known_hosts").read_bytes() == before


def test_the_255_of_a_command_is_told_from_that_of_ssh(web: Kvmctl) -> None:
    done = web("ssh", "web", "exit 255")
    assert (done.stderr, done.returncode) == ("", 255)
    done = web("ssh", "--user", "nobody", "web", "true")
    assert done.returncode == 125
    assert done.stderr.startswith("error: the guest of 'web' does not let us in at nobody@127.0.0.1:")
    assert "kvmctl console web" in hint(done)


def test_a_changed_host_key_is_refused_and_the_way_out_works(web: Kvmctl, guest: SshGuest) -> None:
    known = keys(web) / "known_hosts"
    before = known.read_bytes()
    known.write_text(f"kvmctl-web {guest.client_key.with_suffix('.pub').read_text()}")
    try:
        for words in (["ssh", "web", "true"], ["exec", "web", "true"]):
            done = web(*words)
            assert done.returncode == 125
            assert "error: the guest of 'web' shows another host key than before\n" in done.stderr
        assert web("wait", "web", "--for", "ssh").returncode == 15  # it would never come
        subprocess.run(hint(done).partition("should be: ")[2].split(), check=True, capture_output=True)
        web.ok("ssh", "web", "true")
    finally:
        known.write_bytes(before)


def test_without_the_key_made_for_it_the_users_own_are_tried(web: Kvmctl, guest: SshGuest, tmp_path: Path) -> None:
    key = keys(web) / "id_ed25519"
    away = key.rename(tmp_path / "away")
    try:
        agent_less = {"HOME": str(tmp_path), "SSH_AUTH_SOCK": ""}
        assert web("ssh", "web", "true", **agent_less).returncode == 125
        config = tmp_path / "config"
        config.write_text(web.ok("ssh-config", "web"))
        assert "IdentityFile" not in config.read_text()
        done = subprocess.run(
            ["ssh", "-F", config, "-i", guest.client_key, "kvmctl-web", "echo in"], capture_output=True
        )
        assert done.stdout == b"in\n"
    finally:
        away.rename(key)


def test_the_configuration_is_all_that_ssh_needs(web: Kvmctl, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(web.ok("ssh-config", "--all"))
    done = subprocess.run(["ssh", "-F", config, "kvmctl-web", "cat /etc/hostname"], capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"small-linux\n", 0)
    assert web("ssh-config").returncode == web("ssh-config", "web", "--all").returncode == 2


def test_one_forward_is_made_for_the_run_however_often_it_is_used(web: Kvmctl) -> None:
    for _ in range(2):
        web.ok("ssh", "web", "true")
    assert web.ok("ip", "web") == web.ok("ip", "web")
    (address,) = json.loads(web.ok("ip", "web", "--json"))["addresses"]
    assert (address["source"], address["guest_port"], address["reachable"]) == ("forward", 22, True)
    assert web.ok("ip", "web") == f"127.0.0.1:{address['port']}\n"


def test_a_shell_has_a_terminal_and_the_users_login(web: Kvmctl) -> None:
    assert web.ok("shell", "web", stdin="id -u; exit\n").endswith("0\n")
    assert web("shell", "web", stdin="exit 3\n").returncode == 3


def test_a_signal_is_passed_on_and_leaves_nothing_running(web: Kvmctl) -> None:
    with web.popen("ssh", "web", "echo started; exec sleep 1000") as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.terminate()
        assert running.wait(timeout=PATIENCE) == 128 + 15
        assert running.stderr is not None
        assert running.stderr.read() == ""


def test_a_guest_that_does_not_run_is_not_knocked_at(web: Kvmctl) -> None:
    web.ok("pause", "web")
    done = web("ssh", "web", "true")
    web.ok("resume", "web")
    assert done.returncode == 125
    assert hint(done) == "hint: Let it go on: kvmctl resume web"


def test_without_ssh_it_is_said_which_package_has_it(web: Kvmctl, tmp_path: Path) -> None:
    for words in (["ssh", "web", "true"], ["exec", "web", "true"]):
        done = web(*words, PATH=str(tmp_path))
        assert done.returncode == 125
        assert "error: ssh was not found\nhint: Install it: apt install openssh-client" in done.stderr


# -- exec where there is no agent ------------------------------------------------------------------------------------


def test_exec_goes_through_ssh_where_there_is_no_agent_and_says_so(web: Kvmctl) -> None:
    done = web("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.returncode) == ("out\n", 7)
    assert done.stderr == "web: through ssh, since no guest agent has spoken\nerr\n"
    assert web("exec", "--via", "ssh", "web", "--", "true").stderr == ""
    done = web("exec", "--via", "agent", "web", "--", "true")
    assert done.returncode == 125
    assert "has no channel to a guest agent" in done.stderr


def test_cp_without_an_agent_names_scp(web: Kvmctl) -> None:
    for words in (("README", "web:/root/"), ("web:/etc/hostname", ".")):
        done = web("cp", *words)
        assert done.returncode == 12
        scp = "kvmctl ssh-config web >web.ssh && scp -r -F web.ssh SRC kvmctl-web:DST"
        assert hint(done) == f"hint: Without an agent it goes over ssh: {scp}"


def test_exec_through_ssh_has_the_exit_codes_of_exec_through_the_agent(web: Kvmctl) -> None:
    assert web("exec", "web", "--", "no-such-command").returncode == 127
    assert web("exec", "web", "--", "/etc/hostname").returncode == 126
    assert web("exec", "web", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert web("exec", "web", "--", "sh", "-c", "exit 255").returncode == 255


def test_words_variables_and_input_get_through_ssh_as_they_are(web: Kvmctl) -> None:
    words = ["a b", "$HOME", "it's", '"', "", "*", "back\\slash", "new\nline", "-x"]
    shown = web.ok("exec", "web", "--env", "A=b c", "--", "sh", "-c", 'printf "[%s]" "$A" "$@"', "sh", *words)
    assert shown == "".join(f"[{word}]" for word in ["b c", *words])
    assert web.ok("exec", "web", "--stdin", "--", "wc", "-c", stdin="x" * 300_000).strip() == "300000"
    assert web.ok("exec", "web", "--", "seq", "100000").split() == [str(number) for number in range(1, 100001)]


def test_a_command_through_ssh_whose_time_is_up_is_ended_in_the_guest(web: Kvmctl) -> None:
    done = web("exec", "web", "--timeout", "8", "--", "sh", "-c", "sleep 4321 & sleep 1234")
    assert done.returncode == 124
    assert web.ok("exec", "web", "--", "sh", "-c", "ps | grep -c '[s]leep [14][23]' || true") == "0\n"


def test_run_with_a_command_goes_through_ssh_where_there_is_no_agent(kvmctl: Kvmctl, guest: SshGuest) -> None:
    told = f'{USER_NETWORK}[guest]\n[[guest.users]]\nname = "root"\n'
    (kvmctl.directory / "told.toml").write_text(guest.spec(cmdline=TOLD, tables=told, keys="agent = false"))
    done = kvmctl("run", "./told.toml", "--name", "told", "--timeout", BOOT, "--", "sh", "-c", "echo out; exit 3")
    assert (done.stdout, done.returncode) == ("out\n", 3), done.stderr
    assert done.stderr.splitlines()[-1] == "told: through ssh, since no guest agent has spoken"
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_run_says_what_it_saw_of_a_guest_that_lets_nobody_in(kvmctl: Kvmctl, guest: SshGuest) -> None:
    (kvmctl.directory / "mute.toml").write_text(guest.spec(tables=USER_NETWORK, keys="agent = false"))
    done = kvmctl("run", "./mute.toml", "--timeout", "8", "--", "true")
    assert done.returncode == 124
    assert "gave up after 8 s: run 'true'\n" in done.stderr
    assert "\nssh: 127.0.0.1:" in done.stderr
    (kvmctl.directory / "alone.toml").write_text(guest.spec(keys="agent = false"))
    done = kvmctl("run", "./alone.toml", "--", "true")
    assert done.returncode == 125
    assert "has no network by which this host could get to it" in done.stderr


# -- what a killed freezer left --------------------------------------------------------------------------------------


@pytest.fixture
def iced(kvmctl: Kvmctl, guest: SshGuest) -> Iterator[Kvmctl]:
    """A command line whose machine ``iced`` has an agent, a server and a disk at /mnt."""
    disk = f"[[disks]]\nsize = '16MiB'\n{USER_NETWORK}"
    start(kvmctl, guest, "iced", cmdline=WITH_SERVER, tables=disk)
    kvmctl.ok("wait", "iced", "--for", "agent", "--for", "ssh", "--timeout", BOOT)
    kvmctl.ok("exec", "iced", "--", "sh", "-c", "mke2fs /dev/vda >/dev/null && mount /dev/vda /mnt")
    yield kvmctl
    kvmctl("kill", "iced")


def test_who_comes_by_ssh_finds_nothing_frozen_by_one_who_was_killed(iced: Kvmctl) -> None:
    write = "echo x >/mnt/x && sync && cat /mnt/x"
    for words in (("ssh", "iced", write), ("exec", "--via", "ssh", "iced", "--", "sh", "-c", write)):
        kill_a_freezer(iced)
        assert iced.ok(*words) == "x\n"
    kill_a_freezer(iced)
    iced.ok("wait", "iced", "--for", "ssh")
    assert list((iced.directory / "runtime/iced").rglob("frozen.json")) == []


def kill_a_freezer(kvmctl: Kvmctl) -> None:
    with kvmctl.popen("freeze", "iced") as freezing:
        assert freezing.stderr is not None
        assert "1 file system frozen" in freezing.stderr.readline()
        freezing.kill()
    assert len(list((kvmctl.directory / "runtime/iced").rglob("frozen.json"))) == 1


# -- other ways in ---------------------------------------------------------------------------------------------------


def test_a_guest_on_a_bridge_is_found_by_its_agent_and_by_its_neighbours(kvmctl: Kvmctl, guest: SshGuest) -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or shutil.which("ip") is None:
        pytest.skip("needs root, /dev/net/tun and ip")
    name = f"kvmctl-ssh-{os.getpid()}"
    inside = ("ip", "netns", "exec", name)
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        pytest.skip("this host allows no network namespaces")

    def ip(*words: str) -> None:
        subprocess.run([*inside, "ip", *words], check=True)

    try:
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "br0", "up")
        ip("address", "add", "192.0.2.1/24", "dev", "br0")
        there = Kvmctl(kvmctl.directory, kvmctl.environment, wrap=inside)
        start(there, guest, "wired", tables='[[networks]]\ntype = "tap"\nbridge = "br0"\n')
        there.ok("wait", "wired", "--for", "agent", "--timeout", BOOT)
        assert there("ip", "wired").returncode == 4
        assert there("ssh", "wired", "true").returncode == 125
        there.ok("exec", "wired", "--", "sh", "-c", f"ip address add 192.0.2.7/24 dev eth0; {SERVE}")
        assert there.ok("ip", "wired") == "192.0.2.7\n"
        assert there.ok("ssh", "wired", "echo in") == "in\n"
        there.ok("ssh", "wired", "killall qemu-ga")
        (address,) = json.loads(there.ok("ip", "wired", "--json"))["addresses"]
        assert (address["address"], address["source"]) == ("192.0.2.7", "neighbour")
        assert there.ok("ssh", "wired", "echo in") == "in\n"
        done = there("exec", "wired", "--", "echo", "in")
        assert (done.stdout, done.stderr) == ("in\n", "wired: through ssh, since no guest agent has spoken\n")
    finally:
        kvmctl("kill", "wired")
        subprocess.run(["ip", "netns", "delete", name], check=True)
