"""What ``kvmctl start`` does, with and without typer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import kvmctl
from kvmctl.cli import output
from kvmctl.cli.ending import ending_well

if TYPE_CHECKING:
    from kvmctl import Started


def start_detached(machine: str, *, name: str | None = None) -> str:
    """Start `machine`, its image pulled where it is missing; print what is worth warning of, and its name.

    The name is returned.
    """

    def start() -> Started:
        return kvmctl.start_detached(machine, name=name)

    try:
        started = start()
    except kvmctl.ImageMissing:
        started = import_module("kvmctl.cli.pulling").pulling_what_is_missing(start)
    for warning in started.warnings:
        output.warn(f"{started.name}: {warning}")
    output.emit(started.name)
    return started.name


def main(machine: str) -> None:
    """The whole of ``kvmctl start MACHINE``."""
    with ending_well():
        start_detached(machine)
