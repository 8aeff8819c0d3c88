"""What ``kvmctl start`` does, with and without typer."""

from __future__ import annotations

import kvmctl
from kvmctl.cli import output
from kvmctl.cli.ending import ending_well


def start_detached(machine: str, *, name: str | None = None) -> str:
    """Start `machine`, print what is worth warning of, and its name, which is returned."""
    started = kvmctl.start_detached(machine, name=name)
    for warning in started.warnings:
        output.warn(f"{started.name}: {warning}")
    output.emit(started.name)
    return started.name


def main(machine: str) -> None:
    """The whole of ``kvmctl start MACHINE``."""
    with ending_well():
        start_detached(machine)
