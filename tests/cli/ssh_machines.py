"""Machines with an ssh server, as a first start would have left them."""

from __future__ import annotations

import json

from sshguest import SshGuest

from .conftest import Kvmctl

BOOT = "45"
"""Seconds that a guest may take to boot, below a command's own patience."""
USER_NETWORK = '[[networks]]\ntype = "user"\n'


def start(
    kvmctl: Kvmctl, guest: SshGuest, name: str, *, cmdline: str = "", tables: str = USER_NETWORK, keys: str = ""
) -> None:
    """Start machine `name`, its keys where its first start would have put them, and its user root."""
    guest.give_keys(kvmctl.directory / "state/machines" / name)
    (kvmctl.directory / f"{name}.toml").write_text(guest.spec(cmdline=cmdline, tables=tables, keys=keys))
    kvmctl.ok("start", f"./{name}.toml")
    be_root(kvmctl, name)


def be_root(kvmctl: Kvmctl, name: str) -> None:
    """Have kvmctl log in to machine `name` as root."""
    path = kvmctl.directory / "runtime" / name / "plan.json"
    plan = json.loads(path.read_text())
    plan["guest"]["user"] = "root"
    path.write_text(json.dumps(plan))
