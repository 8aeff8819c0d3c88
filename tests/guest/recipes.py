"""A first boot with something of everything, for the tests of how it is told."""

from __future__ import annotations

from typing import Any

from kvmctl.guest.given import Given
from kvmctl.plan.guest import FirstBoot, GuestCard, GuestFile, GuestMount, GuestUser, Source

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtDDLIXxnAgmyhMF3YXbS3PcyVBYCmwJo4a+HVDUz3c me@here"
OURS = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDkJFEBi3G1L9MjUEu4PBCGFhsl3MTiY1OVdPSkKfek6 kvmctl-web"
HASH = "$6$salt$hash.hash/hash"
PASSWORD = Source("env", "PASSWORD", "guest.users[0].password_hash.env")
TEXT = Source("text", "", "guest.files[0].content")
BINARY = Source("file", "/bin/x", "guest.files[1].source")
KEYS = Source("text", KEY, "guest.ssh_keys[0]")

RECIPE = FirstBoot(
    way="nocloud",
    instance="6f0c1e9e-0000-5000-8000-000000000001",
    hostname="web.example.org",
    users=(
        GuestUser("bob", (KEYS,), "Bob 100%", ("adm", "wheel"), sudo=True, password=PASSWORD, password_is_hash=True),
        GuestUser("root", (KEYS,)),
    ),
    packages=("nginx", "curl"),
    files=(GuestFile("/etc/motd", TEXT, "0644", "root:root"), GuestFile("/opt/a b/x", BINARY, "0755", "bob:bob")),
    run=(("sh", "-c", 'echo "it\'s" >/x'), ("touch", "/with space")),
    cards=(
        GuestCard("52:54:00:00:00:01", "eth0", dhcp=True),
        GuestCard(
            *("52:54:00:00:00:02", "eth1", False, ("10.0.0.2/24", "fd00::2/64"), ("10.0.0.1", "fd00::1")),
            dns=("10.0.0.3",),
            search=("example.org",),
            optional=True,
        ),
    ),
    mounts=(GuestMount("src", "virtiofs", "/mnt/my-src", "ro"),),
    timezone="Europe/Berlin",
    locale="de_DE.UTF-8",
)


def recipe(**changes: Any) -> FirstBoot:
    """That first boot, with something changed."""
    return RECIPE._replace(**changes)


def given(**contents: bytes) -> Given:
    """What its sources come to; `contents` by the kind ``text``, ``binary`` or ``password``."""
    return Given(
        contents={
            KEYS: f"# mine\n{KEY}\n\n".encode(),
            PASSWORD: contents.get("password", HASH.encode()),
            TEXT: contents.get("text", b"hello\n"),
            BINARY: contents.get("binary", b"\x7fELF\0\xff"),
        },
        client_key=OURS,
        host_key="-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        host_key_public=OURS,
    )
