"""``kvmctl start``."""

from __future__ import annotations

from typing import Annotated

import typer

import kvmctl
from kvmctl.cli import output
from kvmctl.cli.arguments import Spec


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


def start_detached(machine: str, *, name: str | None) -> None:
    """Start `machine`, print what is worth warning of, and its name."""
    started = kvmctl.start_detached(machine, name=name)
    for warning in started.warnings:
        output.warn(f"{started.name}: {warning}")
    output.emit(started.name)
