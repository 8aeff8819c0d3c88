"""What systemd is told: the lines of sysusers.d and tmpfiles.d, units, and a script that a shell can read."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvmctl.guest.script import first_boot_script
from kvmctl.guest.systemd import credentials, mount_unit

from .recipes import HASH, KEY, OURS, given, recipe


def told(name: str, **changes: Any) -> str:
    return credentials(recipe(way="credentials", **changes), given())[name].decode()


def test_there_are_as_many_credentials_as_the_plan_says() -> None:
    made = recipe(way="credentials")
    assert tuple(credentials(made, given())) == made.credentials
    root = recipe(way="credentials", users=made.users[1:])
    assert tuple(credentials(root, given())) == root.credentials == (
        *("tmpfiles.extra", "ssh.authorized_keys.root", "kvmctl.first-boot"),
    )  # fmt: skip


def test_users_are_made_with_ids_of_people_and_their_groups() -> None:
    assert told("sysusers.extra").splitlines() == [
        'u bob 1000 "Bob 100%%" /home/bob "/bin/sh"',
        "m bob adm",
        "m bob wheel",
    ]


def test_root_has_a_credential_of_its_own() -> None:
    assert told("ssh.authorized_keys.root") == f"{OURS}\n{KEY}\n"


def test_names_keys_and_rules_are_files_that_are_there_before_anything_runs() -> None:
    lines = told("tmpfiles.extra").splitlines()
    assert "w /proc/sys/kernel/hostname - - - - web.example.org" in lines
    assert 'f+ "/etc/hostname" 0644 root root - web.example.org\\n' in lines
    assert "d /home/bob 0700 bob bob - -" in lines
    assert f"f /home/bob/.ssh/authorized_keys 0600 bob bob - {OURS}\\n{KEY}\\n" in lines
    assert 'f+ "/etc/sudoers.d/90-kvmctl" 0440 root root - bob ALL=(ALL) NOPASSWD:ALL\\n' in lines
    (key,) = [line for line in lines if 'ssh_host_ed25519_key"' in line]
    assert key.startswith('f+ "/etc/ssh/ssh_host_ed25519_key" 0600 root root - -----BEGIN')


def test_units_are_put_where_systemd_looks_by_way_of_dev() -> None:
    lines = told("tmpfiles.extra").splitlines()
    assert lines[0] == "L+ /dev/.kvmctl - - - - /run"
    early = [line for line in lines if '"/dev/.kvmctl/' in line]
    assert [line.split('"')[1].removeprefix("/dev/.kvmctl/") for line in early] == [
        "systemd/system/kvmctl-first-boot.service",
        "systemd/system/mnt-my\\\\x2dsrc.mount",
        "systemd/network/70-kvmctl-eth0.network",
        "systemd/network/70-kvmctl-eth1.network",
        "udev/rules.d/90-kvmctl.rules",
    ]
    assert early[1].endswith("[Mount]\\nWhat=src\\nWhere=/mnt/my-src\\nType=virtiofs\\nOptions=ro\\n")
    assert early[3].endswith(
        "[Match]\\nMACAddress=52:54:00:00:00:02\\n[Link]\\nRequiredForOnline=no\\n[Network]\\nDHCP=no\\n"
        "Address=10.0.0.2/24\\nAddress=fd00::2/64\\nGateway=10.0.0.1\\nGateway=fd00::1\\nDNS=10.0.0.3\\n"
        "Domains=example.org\\n"
    )


def test_consoles_log_in_by_themselves_if_that_is_asked_for() -> None:
    lines = told("tmpfiles.extra", autologin="bob").splitlines()
    (drop_in,) = (line for line in lines if "serial-getty" in line)
    assert drop_in == (
        'f+ "/dev/.kvmctl/systemd/system/serial-getty@.service.d/kvmctl.conf" 0644 root root - '
        "[Service]\\nExecStart=\\n"
        "ExecStart=-/sbin/agetty --autologin bob --keep-baud 115200,57600,38400,9600 %%I $TERM\\n"
    )
    script = told("kvmctl.first-boot", autologin="bob")
    assert script.index("try-restart 'serial-getty@*.service'") < script.index("exit 0"), "at every boot"
    assert "serial-getty" not in told("tmpfiles.extra") + told("kvmctl.first-boot")


def test_percent_signs_and_backslashes_are_no_specifiers() -> None:
    line = told("tmpfiles.extra", hostname="h", users=()).splitlines()
    assert not any("100%" in text for text in line)
    sudoers = told("sysusers.extra")
    assert "100%%" in sudoers


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/mnt", "mnt.mount"),
        ("/mnt/a/b", "mnt-a-b.mount"),
        ("/mnt//a-b", "mnt-a\\x2db.mount"),
        ("/.x/y z", "\\x2ex-y\\x20z.mount"),
        ("/ä.b", "\\xc3\\xa4.b.mount"),
    ],
)
def test_a_mount_unit_is_named_as_systemd_escape_names_it(path: str, unit: str) -> None:
    assert mount_unit(path) == unit


def test_the_script_is_one_that_a_shell_takes() -> None:
    subprocess.run(["sh", "-n"], input=first_boot_script(recipe(), given()), text=True, check=True)


def run_script(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run `script` with every absolute path of its own below `tmp_path`."""
    for path in ("/var/lib/kvmctl", "/etc/hosts", "/etc/skel", "/home/", "/dev/.kvmctl", "/usr/share/zoneinfo"):
        script = script.replace(path, f"{tmp_path}{path}")
    (tmp_path / "etc").mkdir(exist_ok=True)
    return subprocess.run(["sh"], input=script, capture_output=True, text=True, check=False)


def script_of(tmp_path: Path, *commands: tuple[str, ...], instance: str = "one") -> str:
    made = recipe(users=(), packages=(), files=(), timezone=None, locale=None, run=commands, instance=instance)
    return first_boot_script(made, given())


def test_commands_run_once_an_instance(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ("sh", "-c", f"echo ran >>'{log}'")
    for instance in ("one", "one", "two", "two"):
        assert run_script(tmp_path, script_of(tmp_path, command, instance=instance)).returncode == 0
    assert log.read_text() == "ran\n" * 2


def test_what_fails_is_said_and_the_rest_is_done(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = run_script(tmp_path, script_of(tmp_path, ("false", "it's"), ("touch", str(log))))
    assert done.returncode == 1
    assert "failed with status 1: false it's" in done.stderr
    assert log.exists()


def test_the_guest_finds_itself_by_its_name(tmp_path: Path) -> None:
    run_script(tmp_path, script_of(tmp_path))
    hosts = (tmp_path / "etc/hosts").read_text().splitlines()
    assert hosts == ["127.0.0.1 localhost", "::1 localhost", "127.0.1.1 web.example.org web"]


@pytest.mark.parametrize(
    "data", [b"", b"hello\n", b"no newline", b"\0\xff\n", b"KVMCTL\n", "ä\n".encode(), b"a\tb\\\n"]
)
def test_a_file_is_written_byte_by_byte(tmp_path: Path, data: bytes) -> None:
    made = recipe(users=(), packages=(), timezone=None, locale=None, run=())
    script = first_boot_script(made, given(text=data, binary=data))
    here = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()
    for old, new in (("/etc/motd", f"{tmp_path}/motd"), ("/opt", f"{tmp_path}/opt")):
        script = script.replace(old, new)
    script = script.replace("root:root", f"{here}:{group}").replace("bob:bob", f"{here}:{group}")
    done = run_script(tmp_path, script)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "motd").read_bytes() == data
    program = tmp_path / "opt/a b/x"
    assert program.read_bytes() == data
    assert program.stat().st_mode & 0o777 == 0o755


def test_passwords_are_on_no_command_line() -> None:
    script = first_boot_script(recipe(), given())
    (line,) = [line for line in script.splitlines() if HASH in line]
    assert line == f"bob:{HASH}"
