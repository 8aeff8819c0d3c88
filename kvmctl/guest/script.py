"""The script of a first boot under systemd: what is done once, and what neither sysusers nor tmpfiles can do."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from shlex import join, quote
from textwrap import wrap
from typing import Final

from kvmctl.guest.getty import RESTART
from kvmctl.guest.given import Given
from kvmctl.plan.guest import FirstBoot, GuestFile, GuestUser

SCRIPT: Final = "kvmctl.first-boot"
"""The credential that the script is in."""

GUARDED: Final = """\
failed=0
try() {
    "$@" && return
    echo "kvmctl: failed with status $?: $*" >&2
    failed=1
}"""
"""Begins a script that goes on after what fails, and ends with the status ``$failed``."""

_BEGIN: Final = """\
#!/bin/sh
# What kvmctl was told to do at this machine's first boot. What fails is said, and the rest is done all the same.
rm -f /dev/.kvmctl
umask 022
stamp=/var/lib/kvmctl/first-boot
instance={instance}
{consoles}[ "$(cat "$stamp" 2>/dev/null)" = "$instance" ] && exit 0
{guarded}
"""
_END: Final = """\
mkdir -p "${stamp%/*}" && printf '%s\\n' "$instance" >"$stamp"
echo 'kvmctl: first boot is done'
exit "$failed"
"""
_PUT: Final = """\
put() {
    mkdir -p "${2%/*}/" && $1 >"$2.kvmctl" && chown "$4" "$2.kvmctl" && chmod "$3" "$2.kvmctl" && mv -f "$2.kvmctl" "$2"
}
"""
_INSTALL: Final = """\
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    if command -v apt-get >/dev/null; then apt-get -q update && apt-get -q -y install "$@"
    elif command -v dnf >/dev/null; then dnf -y install "$@"
    elif command -v zypper >/dev/null; then zypper --non-interactive install "$@"
    elif command -v pacman >/dev/null; then pacman -Sy --noconfirm "$@"
    else echo 'kvmctl: no package manager is known here' >&2; return 1
    fi
}
"""
_SET_TIMEZONE: Final = """\
set_timezone() {
    test -e "/usr/share/zoneinfo/$1" && ln -sfn "../usr/share/zoneinfo/$1" /etc/localtime
}
"""
_SET_LOCALE: Final = """\
set_locale() {
    printf 'LANG=%s\\n' "$1" >/etc/locale.conf || return
    [ ! -d /etc/default ] || cp /etc/locale.conf /etc/default/locale
}
"""
_SKELETON: Final = """\
if [ -d /etc/skel ] && [ ! -e {home}/.profile ] && [ ! -e {home}/.bashrc ]; then
    try cp -R /etc/skel/. {home}/ && try chown -R {name}: {home}
fi
"""


def first_boot_script(recipe: FirstBoot, given: Given) -> str:
    """The script, whole."""
    return (
        _BEGIN.format(
            instance=quote(recipe.instance),
            consoles="" if recipe.autologin is None else f"{RESTART}\n",
            guarded=GUARDED,
        )
        + "".join(_body(recipe, given))
        + _END
    )


def _body(recipe: FirstBoot, given: Given) -> Iterator[str]:
    short = recipe.hostname.partition(".")[0]
    names = quote(f"127.0.1.1 {' '.join(dict.fromkeys((recipe.hostname, short)))}")
    # Or sudo looks for its own host in vain at every call.
    yield "[ -s /etc/hosts ] || printf '%s\\n' '127.0.0.1 localhost' '::1 localhost' >/etc/hosts\n"
    yield f"grep -qsFw {quote(recipe.hostname)} /etc/hosts || printf '%s\\n' {names} >>/etc/hosts\n"
    for user in recipe.users:
        if user.name != "root":
            yield _SKELETON.format(name=user.name, home=f"/home/{user.name}")
        yield from _password(user, given)
    if recipe.timezone:
        yield _SET_TIMEZONE
        yield f"try set_timezone {quote(recipe.timezone)}\n"
    if recipe.locale:
        yield _SET_LOCALE
        yield f"try set_locale {quote(recipe.locale)}\n"
    if recipe.files:
        yield _PUT
    # In cloud-init's order: a package may come from a source that a file names, and bring the owner of another.
    yield from (_file(file, given) for file in recipe.files if file.is_roots)
    if recipe.packages:
        yield _INSTALL
        yield f"try install_packages {join(recipe.packages)}\n"
    yield from (_file(file, given) for file in recipe.files if not file.is_roots)
    yield from (f"try {join(command)}\n" for command in recipe.run)


def _password(user: GuestUser, given: Given) -> Iterator[str]:
    password = given.password(user)
    if password is not None:
        option = " -e" if user.password_is_hash else ""
        yield f"try chpasswd{option} <<'KVMCTL'\n{user.name}:{password}\nKVMCTL\n"


def _file(file: GuestFile, given: Given) -> str:
    decoder, lines = _encoded(given.contents[file.content])
    return f"try put {join((decoder, file.path, file.mode, file.owner))} <<'KVMCTL'\n{lines}KVMCTL\n"


def _encoded(data: bytes) -> tuple[str, str]:
    """A program, and the lines that it turns into `data`: as they are where that can be."""
    text = data.decode("ascii", errors="replace")
    is_plain = text.endswith("\n") and all(char.isascii() and (char.isprintable() or char in "\n\t") for char in text)
    if is_plain and "KVMCTL" not in text:
        return "cat", text
    return "base64 -d", "".join(f"{line}\n" for line in wrap(b64encode(data).decode(), 76))
