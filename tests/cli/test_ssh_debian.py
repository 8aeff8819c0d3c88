"""ssh and waiting on a Debian as it is: OpenSSH's server, systemd's units, cloud-init, scp."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Kvmctl, command_line_of
from .ssh_machines import be_root

pytestmark = [
    pytest.mark.debian,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh: install openssh-client"),
]

BOOT = "400"
"""Seconds; half a minute on a quiet machine without KVM."""


@pytest.fixture(scope="module")
def debian(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, debian_disk: Path
) -> Iterator[Kvmctl]:
    """A command line whose machine ``web`` is a Debian that root can log in to with a key of ours."""
    directory = tmp_path_factory.mktemp("debian")
    with command_line_of(directory, pytestconfig) as kvmctl:
        kvmctl.patience = 2 * int(BOOT)
        keys = directory / "state/machines/web/ssh"
        keys.mkdir(parents=True, mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / "id_ed25519"], check=True)
        public = base64.b64encode((keys / "id_ed25519.pub").read_bytes()).decode()
        overlay = directory / "web.qcow2"
        backing = ["-b", debian_disk, "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, overlay], check=True)
        credential = f"type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={public}"
        (directory / "web.toml").write_text(
            f'memory = "1GiB"\ncpus = 2\nextra_args = ["-smbios", "{credential}"]\n'
            f'[[disks]]\npath = "{overlay}"\n[[networks]]\ntype = "user"\n'
        )
        kvmctl.ok("start", "./web.toml")
        be_root(kvmctl, "web")
        kvmctl.ok("wait", "web", "--for", "ssh", "--for", "agent", "--timeout", BOOT)
        yield kvmctl
        kvmctl("kill", "web")


def put(kvmctl: Kvmctl, path: str, text: str) -> None:
    kvmctl.ok("exec", "web", "--stdin", "--", "sh", "-c", 'cat >"$0"', path, stdin=text)


def test_openssh_lets_us_in_and_its_key_is_kept(debian: Kvmctl) -> None:
    assert debian.ok("ssh", "web", "id -un") == "root\n"
    known = debian.directory / "state/machines/web/ssh/known_hosts"
    assert known.read_text().startswith("kvmctl-web ssh-ed25519 ")
    assert debian("exec", "--via", "ssh", "web", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9
    done = debian("exec", "--via", "ssh", "--timeout", "20", "web", "--", "sh", "-c", "sleep 4321 & sleep 1234")
    assert done.returncode == 124
    assert debian("exec", "web", "--", "pgrep", "-x", "sleep").returncode == 1


def test_scp_takes_files_there_and_back(debian: Kvmctl) -> None:
    config = debian.directory / "ssh.conf"
    config.write_text(debian.ok("ssh-config", "web"))
    there, back = debian.directory / "there", debian.directory / "back"
    there.write_bytes(bytes(range(256)) * 1000)
    for words in ([there, "kvmctl-web:/tmp/there"], ["kvmctl-web:/tmp/there", back]):
        subprocess.run(["scp", "-q", "-F", config, *words], check=True)
    assert back.read_bytes() == there.read_bytes()


def test_units_that_are_up_are_not_waited_for(debian: Kvmctl) -> None:
    said = debian.ok("wait", "web", "--for", "unit:ssh", "--for", "unit:dbus.socket", "--for", "port:22")
    assert said == "ssh is active (running)\ndbus.socket is active (running)\nport 22 is listened on\n"


def test_a_unit_is_waited_for_until_it_says_that_it_is_ready(debian: Kvmctl) -> None:
    script = "while ! test -e /run/go; do sleep 0.1; done; systemd-notify --ready; exec sleep 2000"
    unit = f'[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c "{script}"\n'
    put(debian, "/run/systemd/system/good.service", unit)
    debian.ok("exec", "web", "--", "systemctl", "daemon-reload")
    debian.ok("exec", "web", "--", "systemctl", "start", "--no-block", "good")
    done = debian("wait", "web", "--for", "unit:good", "--timeout", "30")
    assert done.returncode == 10
    assert "unit:good: activating (start)\n" in done.stderr
    debian.ok("exec", "web", "--", "touch", "/run/go")
    assert debian.ok("wait", "web", "--for", "unit:good") == "good is active (running)\n"


def test_a_unit_that_fails_is_told_with_its_last_words(debian: Kvmctl) -> None:
    put(
        debian,
        "/run/systemd/system/bad.service",
        '[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo out of paper; exit 3"\n',
    )
    debian.ok("exec", "web", "--", "sh", "-c", "systemctl daemon-reload; systemctl start --no-block bad")
    done = debian("wait", "web", "--for", "unit:bad")
    assert done.returncode == 16
    assert "failed: exit-code\n" in done.stderr
    assert "out of paper\n" in done.stderr


def test_a_cloud_init_without_a_seed_is_not_waited_for(debian: Kvmctl) -> None:
    assert debian.ok("wait", "web", "--for", "cloud-init") == "status: disabled\n"


def test_nothing_of_a_wait_that_was_given_up_stays_in_the_guest(debian: Kvmctl) -> None:
    assert debian("wait", "web", "--for", "unit:nonesuch", "--timeout", "20").returncode == 10
    assert debian("exec", "web", "--", "pgrep", "-x", "journalctl").returncode == 1


def test_the_host_key_of_a_disk_made_anew_is_refused(debian: Kvmctl) -> None:
    anew = "rm $0 && ssh-keygen -q -t ed25519 -N '' -f $0 && systemctl restart ssh"
    debian.ok("exec", "web", "--", "sh", "-c", anew, "/etc/ssh/ssh_host_ed25519_key")
    done = debian("ssh", "web", "true")
    assert done.returncode == 125
    assert "shows another host key than before" in done.stderr
    assert "ssh-keygen -R kvmctl-web" in done.stderr
    assert json.loads(debian.ok("ip", "web", "--json"))["addresses"][0]["source"] == "forward"
