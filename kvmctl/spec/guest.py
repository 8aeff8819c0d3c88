"""``[guest]``: what the machine's system is to be told when it boots for the first time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.spec.guestwords import (
    CardAddress,
    Command,
    FullName,
    GroupName,
    GuestPath,
    Hostname,
    Instance,
    IpAddress,
    Locale,
    Mode,
    Owner,
    Package,
    Password,
    PasswordHash,
    SshKey,
    Timezone,
    UserName,
)
from kvmctl.spec.hostpath import HostPath
from kvmctl.spec.model import Bool, Model
from kvmctl.spec.units import Id, Text


class User(Model):
    """A user of the guest."""

    name: UserName = Field(description="The name to log in with; made if it is not there.")
    description: FullName = Field(default="", description="The user's full name.")
    groups: tuple[GroupName, ...] = Field(default=(), description="More groups the user is in.")
    sudo: Bool = Field(default=False, description="May do everything through sudo, without being asked for a password.")
    shell: GuestPath | None = Field(
        default=None,
        description="The shell; unless given, what is usual in the image if that is known, else the guest's default.",
    )
    ssh_keys: tuple[SshKey, ...] | None = Field(
        default=None, description="Who may log in as this user; those of guest.ssh_keys unless given."
    )
    password: Password | None = Field(
        default=None, description="The password: { file = ... } or { env = ... }. None unless given."
    )
    password_hash: PasswordHash = Field(
        default=None, description="The password's hash, as 'openssl passwd -6' prints it, or where that is kept."
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        if self.password is not None and self.password_hash is not None:
            yield Problem("password_hash", "the password is given twice", allowed="password or password_hash")


class GuestFile(Model):
    """A file to be written in the guest."""

    path: GuestPath = Field(description="Where, in the guest; directories are made.")
    content: Text | None = Field(default=None, description="What is in it. Anybody who can read the spec can read it.")
    source: HostPath | None = Field(default=None, description="A file of the host to copy.")
    mode: Mode = Field(default="0644", description="Its permissions, octal.")
    owner: Owner = Field(default="root", description="Whose it is: 'user' or 'user:group'.")

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        if (self.content is None) == (self.source is None):
            yield Problem("", "is given by exactly one of content and source")


class Card(Model):
    """How the guest sets up one of its network cards."""

    card: Id | None = Field(default=None, description="The card's id, 'net0'; in the order of networks unless given.")
    dhcp: Bool | None = Field(default=None, description="Ask for an address; unless given, where there are none here.")
    addresses: tuple[CardAddress, ...] = Field(
        default=(), description="Addresses with the length of their prefix: '10.0.0.2/24', 'fd00::2/64'."
    )
    gateways: tuple[IpAddress, ...] = Field(
        default=(), description="Routers to everywhere else: one of IPv4, one of IPv6, or both."
    )
    dns: tuple[IpAddress, ...] = Field(default=(), description="Name servers.")
    search: tuple[Hostname, ...] = Field(default=(), description="Domains that short names are looked up in.")

    @property
    def uses_dhcp(self) -> bool:
        """Whether the card asks for an address."""
        return not self.addresses if self.dhcp is None else self.dhcp

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        versions = [":" in gateway for gateway in self.gateways]
        if len(versions) != len({*versions}):
            yield Problem("gateways", "are two routers for one kind of address", allowed="one of IPv4, one of IPv6")
        for gateway in self.gateways:
            if not self.uses_dhcp and not any((":" in gateway) == (":" in address) for address in self.addresses):
                yield Problem("gateways", "no address here can reach it", f"'{gateway}'", "addresses = ...")
        if not self.addresses and not self.uses_dhcp:
            yield Problem("dhcp", "the card gets no address at all", "false", "addresses = ..., or leave it out")


_IN_USER_DATA: Final = ("users", "packages", "files", "run", "timezone", "locale")


class Guest(Model):
    """What the guest is told. ``guest = true`` gives it a host name, a network, and a user with your own ssh keys."""

    via: Literal["auto", "nocloud", "credentials"] = Field(
        default="auto",
        description="How it is told: 'nocloud' by a small disk that cloud-init reads, 'credentials' by what systemd "
        "(252 and later) reads, without cloud-init. 'auto' is nocloud, but for images known to have no cloud-init.",
    )
    instance: Instance | None = Field(
        default=None,
        description="Another word makes a guest that was told before take everything anew. What else changes here "
        "is only told to a guest that boots for the first time.",
    )
    hostname: Hostname | None = Field(default=None, description="Its host name; the machine's name unless given.")
    login: UserName | None = Field(
        default=None,
        description="Whom 'kvmctl ssh' logs in as; the first of users unless given, with user_data the image's own.",
    )
    autologin: Bool = Field(
        default=False,
        description="Serial consoles log in as that user by themselves, without a password, where the guest has "
        "systemd. So it is with the machine that an image's name stands for.",
    )
    ssh_keys: tuple[SshKey, ...] | None = Field(
        default=None,
        description="Who may log in: public keys, or paths of files of them. All of ~/.ssh/*.pub unless given.",
    )
    users: tuple[User, ...] = Field(
        default=(), description="Users; one of your own name unless given, who may do everything through sudo."
    )
    packages: tuple[Package, ...] = Field(default=(), description="Packages to install, by their names there.")
    files: tuple[GuestFile, ...] = Field(
        default=(),
        description="Files to write, before commands are run: root's before packages are "
        "installed, those of others after.",
    )
    run: tuple[Command, ...] = Field(
        default=(), description="Commands to run once, last of all: text for the shell, or lists of words."
    )
    network: tuple[Card, ...] = Field(
        default=(),
        description="How network cards are set up; by DHCP unless given. Told by credentials, systemd-networkd does "
        "it, where the guest has it enabled.",
    )
    timezone: Timezone | None = Field(default=None, description="The time zone, 'Europe/Berlin'.")
    locale: Locale | None = Field(default=None, description="The locale, 'de_DE.UTF-8'.")
    user_data: HostPath | None = Field(
        default=None, description="A file for cloud-init, instead of users, packages, files, run, timezone and locale."
    )
    network_config: HostPath | None = Field(
        default=None, description="A file for cloud-init, version 1 or 2, instead of network."
    )
    vendor_data: HostPath | None = Field(
        default=None, description="A file for cloud-init, which user_data or the keys here outrank."
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        yield from _twins("users", [user.name for user in self.users], "name", "is the name of two users")
        yield from _twins("files", [file.path for file in self.files], "path", "is written twice")
        replaced = {"user_data": _IN_USER_DATA, "network_config": ("network",)}
        for raw, keys in replaced.items():
            for key in keys if getattr(self, raw) is not None else ():
                if getattr(self, key):
                    yield Problem(key, f"is given with {raw}, which says it all", allowed=f"{key} or {raw}")
        if self.autologin and self.user_data is not None and self.vendor_data is not None:
            message = "is given with user_data and vendor_data, which say it all"
            yield Problem("autologin", message, "true", "leave it out, or one of these")
        for raw in ("user_data", "network_config", "vendor_data"):
            if self.via == "credentials" and getattr(self, raw) is not None:
                yield Problem(raw, "is for cloud-init, and credentials are for systemd", allowed="via = 'nocloud'")


def _twins(field: str, values: Sequence[str], key: str, message: str) -> Iterator[Problem]:
    counts = Counter(values)
    for index, value in enumerate(values):
        if counts[value] > 1 and index != values.index(value):
            yield Problem(
                f"{field}[{index}].{key}", message, f"'{value}'", f"the other is guest.{field}[{values.index(value)}]"
            )
