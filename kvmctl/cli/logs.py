"""``kvmctl logs``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl import Log, read_log
from kvmctl.cli import output
from kvmctl.cli.arguments import Name


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until the machine ends.")] = False,
    qemu: Annotated[bool, typer.Option("--qemu", help="What QEMU itself printed, not the console.")] = False,
) -> None:
    """Print what a machine's console has said.

    From its first byte, of its present or last run, as the guest wrote it: pipe it through cat -v or less if the guest
    is not to be trusted with your terminal.

    \b
    kvmctl logs web
    kvmctl logs --follow web
    kvmctl logs --qemu web
    """
    for piece in read_log(name, Log.QEMU if qemu else Log.CONSOLE, follow=follow):
        output.emit_bytes(piece)
