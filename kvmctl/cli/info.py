"""``kvmctl info``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated

import typer

from kvmctl import GuestInfo
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Json, Name
from kvmctl.cli.show import show


def info(
    name: Name,
    guest: Annotated[bool, typer.Option("--guest", help="What its guest says of itself.")] = False,
    json: Json = False,
) -> None:
    """Show what a machine is, or what its guest says of itself.

    Of the guest: its system, load, file systems, network interfaces and users, as far as its agent can tell; what it
    can't is said.

    \b
    kvmctl info web --guest
    kvmctl info web --guest --json | jq -r '.interfaces[].addresses[]'
    """
    if not guest:
        show(name, json=json)
        return
    found = session.on_machine(name, lambda vm: vm.guest_info())
    if json:
        users = [{"name": user.name, "login": _moment(user.login)} for user in found.users]
        record = {field.name: getattr(found, field.name) for field in fields(found)}
        output.print_json({"name": name, **record, "users": users})
        return
    output.print_pairs(_pairs(name, found))
    for field, reason in found.missing.items():
        output.say(f"{field}: not known: {reason}")


def _pairs(name: str, found: GuestInfo) -> Iterator[tuple[str, str]]:
    yield "Machine", name
    yield "Agent", found.agent
    if found.hostname is not None:
        yield "Host name", found.hostname
    if found.os is not None:
        yield "System", found.os.name
        yield "Kernel", f"{found.os.kernel} ({found.os.machine})"
    if found.timezone is not None:
        yield "Time zone", found.timezone
    if found.cpus is not None:
        yield "CPUs", str(found.cpus)
    if found.load is not None:
        yield "Load", "  ".join(f"{value:.2f}" for value in found.load)
    for system in found.filesystems:
        yield "File system", f"{system.mountpoint}  {system.type}  {system.device}{_usage(system.used, system.size)}"
    for interface in found.interfaces:
        yield "Interface", "  ".join([interface.name, interface.mac, *interface.addresses])
    for user in found.users:
        yield "User", f"{user.name}, since {output.rfc3339(_moment(user.login))}"


def _usage(used: int | None, size: int | None) -> str:
    return "" if used is None or size is None else f"  {output.size(used)} of {output.size(size)} used"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
