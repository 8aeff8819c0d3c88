"""What cloud-init is told: the files of a NoCloud seed (cloudinit.readthedocs.io, reference/datasources/nocloud).

They are written as JSON, which is YAML too: nothing in it can be read as anything but what was meant.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from shlex import join
from typing import Any, Final

from kvmctl.guest.getty import DIRECTORY, RESTART, autologin_drop_in
from kvmctl.guest.given import Given
from kvmctl.guest.script import GUARDED
from kvmctl.plan.guest import FirstBoot, GuestCard, GuestFile, GuestMount, GuestUser, Source

_HEADER: Final = "#cloud-config\n"
_NOT_YAML: Final = r"[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]"
"""Characters that JSON takes as they are, and YAML refuses or takes for the end of a line."""


def seed_files(recipe: FirstBoot, given: Given) -> dict[str, bytes]:
    """The files of the seed by name. Pure: the same recipe and sources give the same bytes."""
    is_raw = recipe.user_data is not None
    files = {
        "meta-data": _json(_meta_data(recipe, given)),
        "user-data": _raw(recipe.user_data, given) or _cloud_config(_user_data(recipe, given)),
    }
    vendor = _raw(recipe.vendor_data, given) or (_cloud_config(_vendor_data(recipe, given)) if is_raw else b"")
    network = _raw(recipe.network_config, given) or (_json(_network(recipe.cards)) if recipe.cards else b"")
    files |= {"vendor-data": vendor} if vendor else {}
    files |= {"network-config": network} if network else {}
    return files


def _raw(source: Source | None, given: Given) -> bytes:
    return b"" if source is None else given.contents[source]


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return re.sub(_NOT_YAML, lambda match: f"\\u{ord(match[0]):04x}", text).encode() + b"\n"


def _cloud_config(value: Mapping[str, Any]) -> bytes:
    return _HEADER.encode() + _json(value)


def _meta_data(recipe: FirstBoot, given: Given) -> dict[str, Any]:
    record: dict[str, Any] = {"instance-id": recipe.instance, "local-hostname": recipe.hostname}
    if recipe.user_data is not None:
        # For the image's own default user, whoever that is.
        record["public-keys"] = list(given.keys(recipe.keys))
    return record


def _user_data(recipe: FirstBoot, given: Given) -> dict[str, Any]:
    """Everything, in cloud-init's words; what there is nothing to say of is left out."""
    record: dict[str, Any] = {
        **_vendor_data(recipe, given),
        "hostname": recipe.hostname.partition(".")[0],
        "fqdn": recipe.hostname if "." in recipe.hostname else None,
        "manage_etc_hosts": "localhost",
        "users": [_user(user, given) for user in recipe.users],
        "disable_root": False,
        "timezone": recipe.timezone,
        "locale": recipe.locale,
        "package_update": True if recipe.packages else None,
        "packages": list(recipe.packages),
        "write_files": [_file(file, given) for file in recipe.files],
        "runcmd": list(_commands(recipe.run)),
    }
    return {key: value for key, value in record.items() if value is not None and value != []}


def _commands(commands: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of the script that they become, whose status cloud-init goes by: left alone, it is the last one's."""
    if commands:
        yield GUARDED
        yield from (f"try {join(command)}" for command in commands)
        yield 'exit "$failed"'


def _vendor_data(recipe: FirstBoot, given: Given) -> dict[str, Any]:
    """What is the machine's own affair whoever says the rest: the guest's ssh key, shared directories, consoles."""
    record: dict[str, Any] = {
        "ssh_keys": {"ed25519_private": given.host_key, "ed25519_public": given.host_key_public},
    }
    commands = [_mount(mount) for mount in recipe.mounts]
    if recipe.autologin is not None:
        commands.append(_log_in(recipe.autologin))
    if commands:
        record["bootcmd"] = [["sh", "-c", command] for command in commands]
    return record


def _log_in(user: str) -> str:
    """Has serial consoles log `user` in, this time. They come up after bootcmd; one that was quicker is redone."""
    return (
        "[ ! -d /run/systemd/system ] ||"
        f" {{ mkdir -p {_quote(DIRECTORY)}; printf %s {_quote(autologin_drop_in(user))} >{DIRECTORY}/kvmctl.conf;"
        f" {RESTART}; }}"
    )


def _mount(mount: GuestMount) -> str:
    """Mounts a share at every boot. cloud-init's own ``mounts`` takes only what lies under /dev, or is on a network."""
    path, tag = _quote(mount.path), _quote(mount.tag)
    options = f" -o {_quote(mount.options)}" if mount.options else ""
    return (
        f"mkdir -p {path}; grep -q {_quote(f' {_octal(mount.path)} {mount.type} ')} /proc/mounts"
        f" || mount -t {mount.type}{options} {tag} {path}"
    )


def _octal(path: str) -> str:
    """`path` as /proc/mounts has it, for grep."""
    escaped = "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in path)
    return re.sub(r"([\\.\[*^$])", r"\\\1", escaped)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _user(user: GuestUser, given: Given) -> dict[str, Any]:
    password = given.password(user)
    word = "hashed_passwd" if user.password_is_hash else "plain_text_passwd"
    record: dict[str, Any] = {
        "name": user.name,
        "gecos": user.description or None,
        "groups": list(user.groups),
        "sudo": "ALL=(ALL) NOPASSWD:ALL" if user.sudo and user.name != "root" else None,
        # Beside the other, which may be installed later. Those of cloud-init that don't know the word have no doas.
        "doas": [f"permit nopass {user.name}"] if user.sudo and user.name != "root" and user.become == "doas" else None,
        # A shell that is not there would be taken, and sshd refuse the user: the guest knows what it has.
        "shell": user.shell,
        # Locking root's password, as cloud-init does unless told, would take away a way in that the image has.
        "lock_passwd": password is None and user.name != "root",
        word: password,
        "ssh_authorized_keys": list(given.keys(user.keys)),
    }
    return {key: value for key, value in record.items() if value is not None and value != []}


def _file(file: GuestFile, given: Given) -> dict[str, Any]:
    record: dict[str, Any] = {"path": file.path, "permissions": file.mode, "owner": file.owner}
    if not file.is_roots:
        record["defer"] = True  # until its owner has been made, by us or by a package
    data = given.contents[file.content]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if re.search(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\uffef\U00010000-\U0010ffff]", text):
        return record | {"encoding": "b64", "content": b64encode(data).decode()}
    return record | {"content": text}


def _network(cards: tuple[GuestCard, ...]) -> dict[str, Any]:
    """The cards in version 2 of cloud-init's format, netplan's."""
    return {"version": 2, "ethernets": {card.name: dict(_card(card)) for card in cards}}


def _card(card: GuestCard) -> Iterator[tuple[str, Any]]:
    yield "match", {"macaddress": card.mac}
    # Not every renderer of cloud-init matches by address: some know a card by nothing but its name.
    yield "set-name", card.name
    yield "dhcp4", card.dhcp
    if card.addresses:
        yield "addresses", list(card.addresses)
    for gateway in card.gateways:
        yield ("gateway6" if ":" in gateway else "gateway4"), gateway
    if card.dns or card.search:
        yield "nameservers", {"addresses": list(card.dns), "search": list(card.search)}
    if card.optional:
        yield "optional", True
