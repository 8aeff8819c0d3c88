"""``kvmctl start``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl.cli.arguments import Spec
from kvmctl.cli.starting import start_detached
from kvmctl.cli.wait import parse, wait_until


def start(
    machine: Spec,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Run it under this name, not its spec's.")
    ] = None,
    wait: Annotated[
        list[str] | None,
        typer.Option("--wait", metavar="CONDITION", help="Wait for that, as kvmctl wait --for does. May be repeated."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="Wait no longer; exit with 10.")
    ] = None,
) -> None:
    """Start a machine and return.

    It runs until its guest powers off or somebody stops it; nothing of kvmctl stays with it. Its name is printed. It
    runs on, too, when what is waited for does not come.

    \b
    kvmctl start web
    kvmctl start web --wait ssh --timeout 60
    kvmctl start machines/tiny.toml --name one --wait 'console:^READY'
    """
    conditions = parse(wait or [], option="--wait")
    started = start_detached(machine, name=name)
    if conditions:
        wait_until(started, conditions, timeout=timeout, is_told=False)
