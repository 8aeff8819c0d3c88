"""What cloud-init is told: read as cloud-init reads it, as YAML."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from kvmctl.guest.cloudinit import seed_files
from kvmctl.plan.guest import GuestMount, GuestUser, Source

from .recipes import HASH, KEY, KEYS, OURS, given, recipe


def read(name: str, **changes: Any) -> dict[str, Any]:
    data = seed_files(recipe(**changes), given())[name]
    if name in {"user-data", "vendor-data"}:
        assert data.startswith(b"#cloud-config\n")
    value = yaml.safe_load(data)
    assert isinstance(value, dict)
    return value


def test_a_seed_has_the_three_files_that_cloud_init_asks_for() -> None:
    assert [*seed_files(recipe(), given())] == ["meta-data", "user-data", "network-config"]


def test_the_instance_and_the_name_are_known_before_anything_else() -> None:
    assert read("meta-data") == {
        "instance-id": "6f0c1e9e-0000-5000-8000-000000000001",
        "local-hostname": "web.example.org",
    }


def test_users_have_their_keys_and_ours() -> None:
    bob, root = read("user-data")["users"]
    assert bob == {
        "name": "bob",
        "gecos": "Bob 100%",
        "groups": ["adm", "wheel"],
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": False,
        "hashed_passwd": HASH,
        "ssh_authorized_keys": [OURS, KEY],
    }
    assert root == {"name": "root", "lock_passwd": False, "ssh_authorized_keys": [OURS, KEY]}
    assert read("user-data")["disable_root"] is False


def test_a_user_has_the_shell_that_is_named_and_no_other() -> None:
    zsh, own = read("user-data", users=(GuestUser("bob", (), shell="/bin/zsh"), GuestUser("eve", ())))["users"]
    assert zsh["shell"] == "/bin/zsh"
    assert "shell" not in own


def test_where_there_is_doas_it_is_told_too() -> None:
    users = (GuestUser("bob", (), sudo=True, become="doas"), GuestUser("eve", (), become="doas"))
    bob, eve = read("user-data", users=users)["users"]
    assert (bob["sudo"], bob["doas"]) == ("ALL=(ALL) NOPASSWD:ALL", ["permit nopass bob"])
    assert not {"sudo", "doas"} & {*eve}


def test_a_user_without_a_password_has_none_that_could_be_guessed() -> None:
    (user,) = read("user-data", users=(GuestUser("eve", (KEYS,)),))["users"]
    assert user["lock_passwd"] is True
    assert not {"hashed_passwd", "plain_text_passwd"} & {*user}


def test_the_guest_is_given_the_host_key_that_we_know_it_by() -> None:
    keys = read("user-data")["ssh_keys"]
    assert keys == {"ed25519_private": given().host_key, "ed25519_public": given().host_key_public}


def test_files_are_given_as_they_are_and_owners_are_waited_for() -> None:
    motd, program = read("user-data")["write_files"]
    assert motd == {"path": "/etc/motd", "permissions": "0644", "owner": "root:root", "content": "hello\n"}
    assert program == {
        "path": "/opt/a b/x",
        "permissions": "0755",
        "owner": "bob:bob",
        "defer": True,
        "encoding": "b64",
        "content": "f0VMRgD/",
    }


def test_the_rest_is_said_in_cloud_inits_words() -> None:
    told = read("user-data")
    assert told["hostname"] == "web"
    assert told["fqdn"] == "web.example.org"
    assert told["timezone"] == "Europe/Berlin"
    assert told["locale"] == "de_DE.UTF-8"
    assert told["packages"] == ["nginx", "curl"]
    assert told["package_update"] is True
    assert [shlex.split(line) for line in told["runcmd"][1:-1]] == [
        ["try", "sh", "-c", 'echo "it\'s" >/x'],
        ["try", "touch", "/with space"],
    ]


def test_a_command_that_fails_keeps_no_other_from_being_run_and_is_told_of(tmp_path: Path) -> None:
    commands = (("false",), ("sh", "-c", "exit 3"), ("touch", f"{tmp_path}/it's done"))
    script = "".join(f"{line}\n" for line in read("user-data", run=commands)["runcmd"])  # as cloud-init makes it one
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "kvmctl: failed with status 1: false",
        "kvmctl: failed with status 3: sh -c exit 3",
    ]
    assert (tmp_path / "it's done").exists()


def test_what_was_not_asked_for_is_not_said() -> None:
    told = read("user-data", packages=(), files=(), run=(), timezone=None, locale=None, mounts=())
    assert {*told} == {"ssh_keys", "hostname", "fqdn", "manage_etc_hosts", "users", "disable_root"}
    assert "network-config" not in seed_files(recipe(cards=()), given())


def test_cards_are_found_by_their_addresses() -> None:
    assert read("network-config") == {
        "version": 2,
        "ethernets": {
            "eth0": {"match": {"macaddress": "52:54:00:00:00:01"}, "set-name": "eth0", "dhcp4": True},
            "eth1": {
                "match": {"macaddress": "52:54:00:00:00:02"},
                "set-name": "eth1",
                "dhcp4": False,
                "addresses": ["10.0.0.2/24", "fd00::2/64"],
                "gateway4": "10.0.0.1",
                "gateway6": "fd00::1",
                "nameservers": {"addresses": ["10.0.0.3"], "search": ["example.org"]},
                "optional": True,
            },
        },
    }


def test_shares_are_mounted_at_every_boot() -> None:
    told = read("user-data", mounts=(GuestMount("my tag", "9p", "/it's here", "trans=virtio"),))
    (command,) = told["bootcmd"]
    assert command[:2] == ["sh", "-c"]
    assert command[2] == (
        "mkdir -p '/it'\\''s here'; grep -q ' /it'\\''s\\\\040here 9p ' /proc/mounts"
        " || mount -t 9p -o 'trans=virtio' 'my tag' '/it'\\''s here'"
    )


def test_consoles_log_in_by_themselves_at_every_boot_if_that_is_asked_for(tmp_path: Path) -> None:
    *_, command = read("user-data", autologin="bob")["bootcmd"]
    there = tmp_path / "run/systemd/system"
    there.mkdir(parents=True)
    (tmp_path / "systemctl").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "systemctl").chmod(0o755)
    script = command[2].replace("/run/", f"{tmp_path}/run/")
    told = subprocess.run(
        [*command[:2], script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, check=True
    )
    assert told.stdout == b"daemon-reload\n--no-block try-restart serial-getty@*.service\n"
    drop_in = (there / "serial-getty@.service.d/kvmctl.conf").read_text()
    assert drop_in.splitlines() == [
        "[Service]",
        "ExecStart=",
        "ExecStart=-/sbin/agetty --autologin bob --keep-baud 115200,57600,38400,9600 %I $TERM",
    ]


def test_a_guest_without_systemd_is_not_bothered_with_consoles() -> None:
    *_, command = read("user-data", autologin="bob")["bootcmd"]
    script = command[2].replace("/run/systemd/system", "/nowhere")
    assert subprocess.run([*command[:2], script], capture_output=True, check=True).stderr == b""


def test_files_of_ones_own_are_given_byte_by_byte() -> None:
    user, network, vendor = (Source("file", f"/{name}", name) for name in ("user", "network", "vendor"))
    told = given()
    raw = {user: b"#!/bin/sh\n", network: b"version: 1\n", vendor: b"#cloud-config\n{}\n"}
    contents = type(told)({**told.contents, **raw}, told.client_key, told.host_key, told.host_key_public)
    files = seed_files(
        recipe(users=(), cards=(), keys=(KEYS,), user_data=user, network_config=network, vendor_data=vendor), contents
    )
    assert files["user-data"] == b"#!/bin/sh\n"
    assert files["network-config"] == b"version: 1\n"
    assert files["vendor-data"] == b"#cloud-config\n{}\n"
    assert yaml.safe_load(files["meta-data"])["public-keys"] == [OURS, KEY]


def test_with_user_data_of_ones_own_the_host_key_shares_and_consoles_are_the_vendors() -> None:
    user = Source("file", "/user", "user")
    told = given()
    contents = type(told)({**told.contents, user: b"#!/bin/sh\n"}, OURS, told.host_key, OURS)
    raw = recipe(users=(), user_data=user, autologin="debian")
    vendor = yaml.safe_load(seed_files(raw, contents)["vendor-data"])
    assert vendor["ssh_keys"]["ed25519_private"] == told.host_key
    mount, console = vendor["bootcmd"]
    assert "mount -t virtiofs" in mount[2]
    assert "--autologin debian" in console[2]


@settings(deadline=None)
@for_all(st.text(st.characters(codec="utf-8"), max_size=60))
def test_whatever_is_in_a_text_is_read_as_it_was_written(text: str) -> None:
    files = seed_files(recipe(run=((text,),), hostname="h"), given(text=text.encode()))
    told = yaml.safe_load(files["user-data"])
    assert shlex.split(told["runcmd"][1]) == ["try", text]
    motd = told["write_files"][0]
    content = motd["content"] if "encoding" not in motd else None
    assert content in {text, None}
