"""The command line and the configuration of ssh, as ssh itself reads them, and its log understood."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kvmctl.errors import HostKeyChanged, Unreachable
from kvmctl.guest.ssh import Login, find_ssh_failure, knows_host, ssh_command, ssh_configuration

LOGIN = Login("web", "127.0.0.1", 2222, "forward", "/var/lib/kvmctl/machines/web/ssh/known_hosts")
OURS = replace(LOGIN, user="debian", key="/keys/id_ed25519", is_pinned=True)

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Offending ED25519 key in /kh2:1
Host key for kvmctl-web has changed and you have requested strict checking.
Host key verification failed.
"""
UNKNOWN = """\
debug1: checking without port identifier
No ED25519 host key is known for kvmctl-web and you have requested strict checking.
Host key verification failed.
"""
NO_SERVER = """\
kex_exchange_identification: Connection closed by remote host
Connection closed by 127.0.0.1 port 2222
"""
LOST = """\
Authenticated to 127.0.0.1 ([127.0.0.1]:2222) using "publickey".
debug1: channel 0: free: client-session, nchannels 1
Transferred: sent 2320, received 1172 bytes, in 5.7 seconds
debug1: Exit status -1
"""


def settings(argv: list[str]) -> dict[str, str]:
    """What ssh makes of a command line, in its own words."""
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh: install openssh-client")
    shown = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True).stdout
    return {key: value for key, _, value in (line.partition(" ") for line in shown.splitlines())}


def test_ssh_understands_the_command_line_as_it_is_meant() -> None:
    found = settings(ssh_command(OURS, ["uptime"], batch=True))
    expected = {
        "hostname": "127.0.0.1",
        "port": "2222",
        "user": "debian",
        "hostkeyalias": "kvmctl-web",
        "userknownhostsfile": OURS.known_hosts,
        "stricthostkeychecking": "true",
        "identitiesonly": "yes",
        "identityfile": "/keys/id_ed25519",
        "batchmode": "yes",
        "updatehostkeys": "false",
    }
    assert expected.items() <= found.items()
    assert "proxycommand" not in found
    assert "controlpath" not in found


def test_a_host_key_that_is_not_known_beforehand_is_kept_when_first_seen() -> None:
    assert settings(ssh_command(LOGIN, []))["stricthostkeychecking"] == "accept-new"


def test_what_the_user_has_for_every_host_does_not_lead_elsewhere(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "Host *\n  ProxyJump bastion\n  ControlMaster auto\n  ControlPath /tmp/%r@%h:%p\n  Port 7\n"
        "  RemoteCommand tmux attach\n  StrictHostKeyChecking no\n  ServerAliveInterval 7\n"
    )
    argv = ssh_command(OURS, ["uptime"])
    found = settings([argv[0], "-F", str(config), *argv[1:]])
    assert (found["port"], found["stricthostkeychecking"]) == ("2222", "true")
    assert not {"proxyjump", "controlpath", "remotecommand"} & set(found)
    assert found["serveraliveinterval"] == "7"  # the rest of the user's habits are kept


@pytest.mark.parametrize("word", ["with space", "100%h", 'quo"te', "back\\slash", "#hash", "tab\there"])
def test_paths_with_any_characters_reach_ssh_whole(tmp_path: Path, word: str) -> None:
    login = replace(LOGIN, known_hosts=f"/keys/{word}/known_hosts", key=f"/keys/{word}/id")
    config = tmp_path / "config"
    config.write_text(ssh_configuration(login))
    for found in (settings(ssh_command(login, [])), settings(["ssh", "-F", str(config), "kvmctl-web"])):
        assert found["userknownhostsfile"].replace("%%", "%") == login.known_hosts
        assert found["identityfile"].replace("%%", "%") == login.key


def test_the_configuration_says_the_same_as_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(ssh_configuration(OURS))
    ours = settings(["ssh", "-F", str(config), "kvmctl-web"])
    theirs = settings(["ssh", "-F", "none", *ssh_command(OURS, [])[1:]])
    assert theirs.pop("connecttimeout") == "30"  # nobody sits before an editor's connection
    assert ours.items() >= theirs.items()


def test_the_words_of_a_command_are_the_last_of_the_line() -> None:
    assert ssh_command(LOGIN, ["ls", "-l"])[-4:] == ["--", "kvmctl-web", "ls", "-l"]
    assert ssh_command(LOGIN, ["top"], terminal=True)[-4:] == ["-t", "--", "kvmctl-web", "top"]
    assert ssh_command(LOGIN, [], log="/proc/1/fd/3")[-6:-2] == ["-E", "/proc/1/fd/3", "-o", "LogLevel=DEBUG1"]


@pytest.mark.parametrize("login", [OURS, LOGIN, replace(LOGIN, host="fe80::1%br0", port=22)])
def test_a_login_is_shown_as_people_write_one(login: Login) -> None:
    shown = {"127.0.0.1": "127.0.0.1:2222", "fe80::1%br0": "[fe80::1%br0]:22"}[login.host]
    assert str(login) == (f"debian@{shown}" if login.user else shown)


def test_a_changed_host_key_is_said_to_be_one_with_the_way_to_accept_it() -> None:
    error = find_ssh_failure(LOGIN, CHANGED)
    assert isinstance(error, HostKeyChanged)
    assert error.summary == "the guest of 'web' shows another host key than before"
    assert "its disk was made anew, or something else answers" in error.detail
    command = error.hint.partition(": ")[2]
    assert shlex.split(command) == ["ssh-keygen", "-R", "kvmctl-web", "-f", LOGIN.known_hosts]


def test_a_key_of_another_kind_than_the_one_given_is_not_taken_either() -> None:
    error = find_ssh_failure(OURS, UNKNOWN)
    assert isinstance(error, HostKeyChanged)
    assert "no host key like the one kvmctl gave" in error.summary


@pytest.mark.parametrize(
    ("log", "summary"),
    [
        (NO_SERVER, "at 127.0.0.1:2222 nobody in the guest of 'web' answers as an ssh server"),
        ("Connection timed out during banner exchange\n", "at 127.0.0.1:2222 nobody in the guest of 'web' answers as"),
        ("ssh: connect to host 127.0.0.1 port 2222: Connection refused\n", "nothing listens at 127.0.0.1:2222"),
        ("ssh: connect to host 10.0.0.7 port 22: No route to host\n", "no packet gets to 127.0.0.1:2222"),
        ("root@127.0.0.1: Permission denied (publickey).\n", "the guest of 'web' does not let us in"),
        (LOST, "the connection to the guest of 'web' broke"),
        (LOST + "Timeout, server 127.0.0.1 not responding.\n", "the guest of 'web' fell silent"),
        ("what nobody foresaw\n", "ssh could not log in to the guest of 'web' at 127.0.0.1:2222"),
        ("", "ssh could not log in to the guest of 'web' at 127.0.0.1:2222"),
    ],
)
def test_the_log_of_a_failure_is_understood(log: str, summary: str) -> None:
    error = find_ssh_failure(LOGIN, log)
    assert isinstance(error, Unreachable)
    assert not isinstance(error, HostKeyChanged)
    assert error.summary.startswith(summary)
    assert "debug1" not in error.detail


@pytest.mark.parametrize(
    "last", ["debug1: Exit status 255", "debug1: client_input_channel_req: rtype exit-signal reply 0"]
)
def test_255_of_the_command_is_no_failure_of_ssh(last: str) -> None:
    assert find_ssh_failure(LOGIN, LOST.replace("debug1: Exit status -1", last)) is None


def test_a_host_is_known_by_its_whole_name() -> None:
    text = "# kvmctl-web\nother,kvmctl-web ssh-ed25519 AAAA\n"
    assert knows_host(text, "kvmctl-web")
    assert not knows_host(text, "kvmctl-we")
    assert not knows_host("kvmctl-web2 ssh-ed25519 AAAA\n", "kvmctl-web")
