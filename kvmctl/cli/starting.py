"""What ``kvmctl start`` does, with and without typer."""

from __future__ import annotations

import kvmctl
from kvmctl.cli import output
from kvmctl.cli.ending import ending_well
from kvmctl.cli.pulling import pulling_what_is_missing


def start_detached(machine: str, *, name: str | None = None) -> None:
    """Start `machine`, its image pulled where it is missing; print what is worth warning of, and its name."""
    started = pulling_what_is_missing(lambda: kvmctl.start_detached(machine, name=name))
    for warning in started.warnings:
        output.warn(f"{started.name}: {warning}")
    output.emit(started.name)


def main(machine: str) -> None:
    """The whole of ``kvmctl start MACHINE``."""
    with ending_well():
        start_detached(machine)
