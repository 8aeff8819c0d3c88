"""What every QEMU is started with: how it is watched and confined, and kept from inventing devices."""

from __future__ import annotations

from typing import Final

from kvmctl.plan.features import Feature
from kvmctl.plan.model import PRIVATE, Listen, Pair
from kvmctl.plan.option import Fd, Option, bare, jsonopt, keyval, keyvals
from kvmctl.spec.context import Context, Lowered

MONITORS: Final = ("qmp", "private", "journal")
"""One monitor serves one client: the public one, the launcher's own, and the journal that nobody talks to."""


def first() -> tuple[Option, ...]:
    """What is said before anything else."""
    return (
        bare("nodefaults", why="default: only what the spec asks for exists"),
        bare("no-user-config", why="default: no file of the host changes the machine"),
    )


def lower_monitors(ctx: Context) -> Lowered:
    """The three monitors and what they speak through."""
    reason = {
        "qmp": "default: the public monitor, for commands",
        "private": "default: the launcher's own monitor",
        "journal": "default: QEMU writes every event to the journal itself",
    }
    chardevs = (
        keyvals("chardev", "socket", {"id": "qmp", "fd": Fd("qmp"), "server": True, "wait": False}, why=reason["qmp"]),
        keyvals("chardev", "socket", {"id": "private", "fd": Fd("private")}, why=reason["private"]),
        keyvals("chardev", "stdio", {"id": "journal", "signal": False}, why=reason["journal"]),
    )
    monitors = tuple(_monitor(ctx, name, why=reason[name]) for name in MONITORS)
    return Lowered(options=chardevs + monitors, fds=(Listen("qmp", ctx.paths.qmp), Pair(PRIVATE)))


def _monitor(ctx: Context, name: str, *, why: str) -> Option:
    if Feature.MONITOR_OBJECT in ctx.qemu.features:
        return jsonopt("object", {"qom-type": "monitor-qmp", "id": f"mon-{name}", "chardev": name}, why=why)
    return keyval("mon", None, chardev=name, mode="control", why=why)


def last(*, sandbox: bool, sandbox_why: str) -> tuple[Option, ...]:
    """How QEMU runs."""
    denied = {"obsolete": "deny", "elevateprivileges": "deny", "spawn": "deny", "resourcecontrol": "deny"}
    confined = keyvals("sandbox", "on", denied, why=sandbox_why)
    return (
        keyvals("display", "none", {}, why="default: no window; a screen is reached over VNC"),
        *((confined,) if sandbox else ()),
        keyval("msg", None, timestamp=True, why="default: what QEMU says has its time"),
        bare("S", why="default: the guest starts when everything around it is ready"),
    )
