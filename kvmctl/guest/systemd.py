"""What systemd is told, from version 252 on and without cloud-init: the contents of credentials.

Users come by ``sysusers.extra`` and files by ``tmpfiles.extra``, both before anything of the system runs. Neither can
start a unit that the image does not have, which a script for the rest, and the mounting of shares, would need. The way
out: the run of systemd-tmpfiles that makes devices comes before udevd, and is told by the same credential, but keeps to
/dev. A symbolic link there leads it to /run, where it puts units, and a udev rule by which the device /dev/null, always
there, wants them: udev's coming upon it starts them. Nothing is reloaded, and nothing of it is left at the next boot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from kvmctl.guest.getty import DIRECTORY, autologin_drop_in
from kvmctl.guest.given import Given
from kvmctl.guest.script import SCRIPT, first_boot_script
from kvmctl.plan.guest import FirstBoot, GuestCard, GuestMount, GuestUser

_LINK: Final = "/dev/.kvmctl"
_SERVICE: Final = "kvmctl-first-boot.service"
_FIRST_UID: Final = 1000
"""Where people's ids begin; below are the system's, in which sysusers looks for one unless it is given."""
_RULE: Final = f'SUBSYSTEM=="mem", KERNEL=="null", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="{_SERVICE}"\n'
MOST: Final = 1_000_000
"""Bytes. systemd takes a MiB of credentials in all (CREDENTIALS_TOTAL_SIZE_MAX), the user's own among them."""


def credentials(recipe: FirstBoot, given: Given) -> dict[str, bytes]:
    """The contents of the credentials by name. Pure: the same recipe and sources give the same bytes."""
    made = {
        "sysusers.extra": _lines(_sysusers(recipe)),
        "tmpfiles.extra": _lines(_tmpfiles(recipe, given)),
        "ssh.authorized_keys.root": _lines(
            key for user in recipe.users if user.name == "root" for key in given.keys(user.keys)
        ),
        SCRIPT: first_boot_script(recipe, given).encode(),
    }
    return {name: made[name] for name in recipe.credentials}


def _lines(lines: Iterator[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _sysusers(recipe: FirstBoot) -> Iterator[str]:
    for index, user in enumerate(_people(recipe)):
        # The one that is there everywhere. Unless it is told, sysusers gives them none to log in with.
        description, shell = _escaped(user.description), _escaped(user.shell or "/bin/sh")
        yield f'u {user.name} {_FIRST_UID + index} "{description}" {_home(user)} "{shell}"'
        yield from (f"m {user.name} {group}" for group in user.groups)


def _people(recipe: FirstBoot) -> tuple[GuestUser, ...]:
    return tuple(user for user in recipe.users if user.name != "root")


def _home(user: GuestUser) -> str:
    return f"/home/{user.name}"


def _tmpfiles(recipe: FirstBoot, given: Given) -> Iterator[str]:
    """Lines of tmpfiles.d(5), carried out at every boot: ``f`` leaves a file that is there, ``f+`` writes it anew."""
    yield from _units(recipe)
    yield f"w /proc/sys/kernel/hostname - - - - {recipe.hostname}"
    yield _file("/etc/hostname", f"{recipe.hostname}\n")
    yield _file("/etc/ssh/ssh_host_ed25519_key", given.host_key, mode="0600")
    yield _file("/etc/ssh/ssh_host_ed25519_key.pub", f"{given.host_key_public}\n")
    for user in _people(recipe):
        owner = f"{user.name} {user.name}"
        yield f"d {_home(user)} 0700 {owner} - -"
        yield f"d {_home(user)}/.ssh 0700 {owner} - -"
        keys = "".join(f"{key}\n" for key in given.keys(user.keys))
        yield f"f {_home(user)}/.ssh/authorized_keys 0600 {owner} - {_argument(keys)}"
    if admins := [user.name for user in _people(recipe) if user.sudo]:
        rules = "".join(f"{name} ALL=(ALL) NOPASSWD:ALL\n" for name in admins)
        yield _file("/etc/sudoers.d/90-kvmctl", rules, mode="0440")


def _units(recipe: FirstBoot) -> Iterator[str]:
    yield f"L+ {_LINK} - - - - /run"
    yield _file(f"{_LINK}/systemd/system/{_SERVICE}", _service(recipe))
    for mount in recipe.mounts:
        yield _file(f"{_LINK}/systemd/system/{mount_unit(mount.path)}", _mount(mount))
    for card in recipe.cards:
        yield _file(f"{_LINK}/systemd/network/70-kvmctl-{card.name}.network", _network(card))
    if recipe.autologin is not None:
        drop_in = f"{_LINK}{DIRECTORY.removeprefix('/run')}/kvmctl.conf"
        yield _file(drop_in, autologin_drop_in(recipe.autologin))
    yield _file(f"{_LINK}/udev/rules.d/90-kvmctl.rules", _RULE)


def _file(path: str, content: str, *, mode: str = "0644") -> str:
    return f'f+ "{_escaped(path)}" {mode} root root - {_argument(content)}'


def _escaped(path: str) -> str:
    """`path` within quotes, without what tmpfiles.d and sysusers.d would expand."""
    return path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _argument(content: str) -> str:
    """`content` as the argument of a line, which knows the escapes of C and of systemd."""
    return content.replace("\\", "\\\\").replace("%", "%%").replace("\t", "\\t").replace("\n", "\\n")


def _service(recipe: FirstBoot) -> str:
    """Runs the script, in which there is nothing to do at later boots, and wants the mounts."""
    online = "network-online.target" if recipe.cards and (recipe.packages or recipe.run) else ""
    mounts = " ".join(mount_unit(mount.path) for mount in recipe.mounts)
    return (
        "[Unit]\nDescription=What kvmctl tells the guest at first boot\n"
        f"Wants={online} {mounts}\nAfter=network.target {online} {mounts}\n\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nStandardOutput=journal+console\n"
        f"LoadCredential={SCRIPT}\nExecStart=/bin/sh ${{CREDENTIALS_DIRECTORY}}/{SCRIPT}\n"
    )


def _mount(mount: GuestMount) -> str:
    options = f"Options={mount.options.replace('%', '%%')}\n" if mount.options else ""
    what, where = mount.tag.replace("%", "%%"), mount.path.replace("%", "%%")
    return (
        f"[Unit]\nDescription=Directory shared by the host\n\n"
        f"[Mount]\nWhat={what}\nWhere={where}\nType={mount.type}\n{options}"
    )


def mount_unit(path: str) -> str:
    """The name of the unit that mounts at `path`, escaped as systemd.unit(5) has it."""
    text = re.sub("/+", "/", path).strip("/")
    return "".join(_escaped_byte(byte, is_first=index == 0) for index, byte in enumerate(text.encode())) + ".mount"


def _escaped_byte(byte: int, *, is_first: bool) -> str:
    char = chr(byte)
    if char == "/":
        return "-"
    is_plain = char.isascii() and (char.isalnum() or (char in "_:." and not (char == "." and is_first)))
    return char if is_plain else f"\\x{byte:02x}"


def _network(card: GuestCard) -> str:
    lines = [
        f"[Match]\nMACAddress={card.mac}",
        f"[Link]\nRequiredForOnline={'no' if card.optional else 'yes'}",
        f"[Network]\nDHCP={'yes' if card.dhcp else 'no'}",
        *(f"Address={address}" for address in card.addresses),
        *(f"Gateway={gateway}" for gateway in card.gateways),
        *(f"DNS={server}" for server in card.dns),
        *((f"Domains={' '.join(card.search)}",) if card.search else ()),
    ]
    return "\n".join(lines) + "\n"
