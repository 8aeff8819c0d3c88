"""What a guest is to be told at its first boot, decided: a recipe of plain values, without any secret in it.

What is read when the machine starts (keys, passwords, files of the host) stands in it as a `Source`. The recipe is part
of the plan and so of ``plan.json``; what it comes to is written to files of the machine's own, 0600, and nowhere else.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

Way: TypeAlias = Literal["nocloud", "credentials"]
"""How a guest is told: by a disk that cloud-init reads, or by credentials that systemd reads."""

Become: TypeAlias = Literal["sudo", "doas"]
"""What users who may do everything do it with."""

_HASH: Final = r"\$[a-z0-9-]+\$[^\s:]{8,}|[./A-Za-z0-9]{13}|_[./A-Za-z0-9]{19}"


def is_hash(text: str) -> bool:
    """Whether `text` is a password as crypt(5) has it."""
    return re.fullmatch(_HASH, text) is not None


class Source(NamedTuple):
    """Where some bytes come from, for the spec's `key`. A ``text`` is the bytes themselves.

    The rest is read when the machine starts: a ``file``, a variable (``env``), the spec's own value at that `key` once
    more (``spec``), or all of ``~/.ssh/*.pub`` (``own-keys``).
    """

    kind: Literal["text", "file", "env", "spec", "own-keys"]
    value: str
    key: str


class GuestUser(NamedTuple):
    """A user of the guest, made if it is not there."""

    name: str
    keys: tuple[Source, ...]
    """Who may log in, in the words of ``authorized_keys``."""
    description: str = ""
    groups: tuple[str, ...] = ()
    sudo: bool = False
    """May do everything through sudo, without a password."""
    become: Become = "sudo"
    """What the guest has for that."""
    shell: str | None = None
    """None leaves it to the guest."""
    password: Source | None = None
    password_is_hash: bool = False
    """The password is one of crypt(5), not the word itself."""


class GuestFile(NamedTuple):
    """A file to be written in the guest, once."""

    path: str
    content: Source
    mode: str
    """Octal digits, ``0644``."""
    owner: str
    """``user:group``."""

    @property
    def is_roots(self) -> bool:
        """Whether it can be written before there are users and packages."""
        return self.owner == "root:root"


class GuestCard(NamedTuple):
    """How the guest is to set up the network card that has the address `mac`."""

    mac: str
    name: str
    """What the card is called in the guest, where the guest lets itself be told."""
    dhcp: bool
    addresses: tuple[str, ...] = ()
    """``10.0.0.2/24``."""
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    optional: bool = False
    """The guest need not wait for it before it says that it is online."""


class GuestMount(NamedTuple):
    """A directory that the host shares, and where the guest is to mount it, at every boot."""

    tag: str
    type: Literal["9p", "virtiofs"]
    path: str
    options: str = ""
    """As for ``mount -o``; none where empty."""


class FirstBoot(NamedTuple):
    """Everything that a guest is told."""

    way: Way
    instance: str
    """Whoever was told something under this word once does not do it again."""
    hostname: str
    users: tuple[GuestUser, ...] = ()
    keys: tuple[Source, ...] = ()
    """Who may log in where `user_data` says which users there are."""
    packages: tuple[str, ...] = ()
    files: tuple[GuestFile, ...] = ()
    run: tuple[tuple[str, ...], ...] = ()
    """Commands, each a program and its arguments."""
    cards: tuple[GuestCard, ...] = ()
    mounts: tuple[GuestMount, ...] = ()
    autologin: str | None = None
    """Who is logged in on serial consoles without being asked."""
    timezone: str | None = None
    locale: str | None = None
    user_data: Source | None = None
    """Instead of all that is above but the hostname and the cards."""
    network_config: Source | None = None
    """Instead of the cards."""
    vendor_data: Source | None = None

    @property
    def credentials(self) -> tuple[str, ...]:
        """The names of the credentials that systemd is told by."""
        names = {user.name for user in self.users}
        sysusers = ("sysusers.extra",) if names - {"root"} else ()
        root = ("ssh.authorized_keys.root",) if "root" in names else ()
        return (*sysusers, "tmpfiles.extra", *root, "kvmctl.first-boot")

    def sources(self) -> tuple[Source, ...]:
        """All that has to be read for it."""
        users = (source for user in self.users for source in (*user.keys, user.password))
        files = (file.content for file in self.files)
        found = (*users, *self.keys, *files, self.user_data, self.network_config, self.vendor_data)
        return tuple(dict.fromkeys(source for source in found if source is not None))


class MakeKeys(NamedTuple):
    """The machine's ssh keys, to be made in `directory` if they are not there: one to log in with, and the guest's own,
    by which ssh knows it under the name `alias`."""

    directory: str
    alias: str
    key: str


class TellGuest(NamedTuple):
    """The files in `directory` that tell the guest what to be, to be made if they are not there or not current."""

    first_boot: FirstBoot
    directory: str
    ssh: str
    """The directory of the keys that `MakeKeys` makes."""
    source: str
    """The file the spec came from, for what is wrong with the files it names."""
    key: str


Step: TypeAlias = MakeKeys | TellGuest

CLASSES: Final = (MakeKeys, TellGuest, FirstBoot, GuestUser, GuestFile, GuestCard, GuestMount, Source)
"""All of these, for who reads a plan back."""
