"""``kvmctl set-password``, ``sync-time`` and ``trim``: what a guest's agent does for it."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from kvmctl import StateError, parse_size
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Json, Name
from kvmctl.cli.output import Column


def set_password(
    name: Name,
    user: Annotated[str, typer.Argument(metavar="USER", help="The user of the guest.")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Read it from a file, not from standard input.")
    ] = None,
    crypted: Annotated[bool, typer.Option("--crypted", help="It is a hash, as in /etc/shadow.")] = False,
) -> None:
    """Set the password of a user of the guest.

    It is asked for on a terminal, and read from standard input or a file elsewhere: the first line. It is never an
    argument, which everybody on this host could read.

    \b
    kvmctl set-password web root
    openssl passwd -6 | kvmctl set-password web root --crypted
    """
    password = _read_password(file, user=user)
    session.on_machine(name, lambda vm: vm.set_password(user, password, crypted=crypted))
    output.say(f"{name}: the password of {user!r} was set")


def sync_time(name: Name) -> None:
    """Set a machine's clock to this host's.

    After a pause, or where the guest has no time server.
    """
    ahead = session.on_machine(name, lambda vm: vm.set_clock())
    output.say(f"{name}: the clock was {abs(ahead):.3f} s {'ahead' if ahead > 0 else 'behind'}, and is set")


def trim(
    name: Name,
    minimum: Annotated[
        str | None, typer.Option("--minimum", metavar="SIZE", help="Leave smaller pieces alone ('64KiB').")
    ] = None,
    json: Json = False,
) -> None:
    """Give back to the host what a machine's file systems don't use.

    It takes disks with discard = "unmap"; elsewhere the guest says that it can't.
    """
    size = 0 if minimum is None else parse_size(minimum)
    found = session.on_machine(name, lambda vm: vm.trim(minimum=size))
    if json:
        output.print_json({"filesystems": found})
        return
    rows = [(item.path, "" if item.size is None else output.size(item.size), item.error) for item in found]
    output.print_table([Column("FILE SYSTEM"), Column("TRIMMED", right=True), Column("PROBLEM")], rows)


def _read_password(file: Path | None, *, user: str) -> str:
    if file is not None:
        try:
            text = file.read_text()
        except OSError as error:
            raise StateError(f"cannot read {str(file)!r}: {error.strerror}") from error
    elif sys.stdin.isatty():
        return getpass.getpass(f"New password of {user!r}: ")
    else:
        text = sys.stdin.readline()
    return text.partition("\n")[0].removesuffix("\r")
