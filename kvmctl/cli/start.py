"""``kvmctl start``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl.cli.arguments import Spec
from kvmctl.cli.starting import start_detached


def start(
    machine: Spec,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Run it under this name, not its spec's.")
    ] = None,
) -> None:
    """Start a machine and return.

    It runs until its guest powers off or somebody stops it; nothing of kvmctl stays with it. Its name is printed.

    \b
    kvmctl start web
    kvmctl start machines/tiny.toml --name one && kvmctl wait one --for 'console:^READY'
    """
    start_detached(machine, name=name)
