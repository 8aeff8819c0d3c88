"""``kvmctl list``: pays for no asyncio and no pydantic, since it may be asked for every second."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from kvmctl import MachineInfo, list_machines
from kvmctl.cli import output
from kvmctl.cli.arguments import Json
from kvmctl.cli.output import Colour, Column

STATE_COLOURS: Final[dict[str, Colour]] = {
    "running": "green",
    "starting": "cyan",
    "paused": "yellow",
    "suspended": "yellow",
    "shutdown": "yellow",
    "panicked": "red",
    "io-error": "red",
    "broken": "red",
}
_COLUMNS = (
    Column("NAME"),
    Column("STATE", colours=STATE_COLOURS),
    Column("CPUS", right=True),
    Column("MEMORY", right=True),
    Column("ACCEL"),
    Column("PID", right=True),
    Column("UP", right=True),
    Column("NOTE"),
)


def list_(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also the machines that don't run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print names only, one a line.")] = False,
    json: Json = False,
) -> None:
    """List the machines that run, or all.

    \b
    kvmctl list --all
    kvmctl list --quiet | xargs -r -n 1 kvmctl stop
    kvmctl list --json | jq '.machines[].name'
    """
    machines = list_machines(include_stopped=everything)
    if json:
        output.print_json({"machines": [machine_record(machine) for machine in machines]})
    elif quiet:
        for machine in machines:
            output.emit(machine.name)
    else:
        output.print_table(_COLUMNS, [_row(machine) for machine in machines])


def machine_record(machine: MachineInfo) -> dict[str, object]:
    """A machine as JSON has it."""
    end = machine.exit
    return {
        "name": machine.name,
        "state": machine.state,
        "defined": machine.is_defined,
        "pid": machine.pid,
        "accel": machine.accel,
        "cpus": machine.cpus,
        "memory": machine.memory,
        "started": moment(machine.started),
        "agent": machine.agent_open,
        "exit": end and {"reason": end.reason, "time": moment(end.time), "status": end.status, "detail": end.detail},
        "problem": machine.problem or None,
    }


def moment(seconds: float | None) -> datetime | None:
    """`seconds` since the epoch as a time that knows its zone."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _row(machine: MachineInfo) -> list[str]:
    return [
        machine.name,
        machine.state,
        "" if machine.cpus is None else str(machine.cpus),
        "" if machine.memory is None else output.size(machine.memory),
        machine.accel or "",
        "" if machine.pid is None else str(machine.pid),
        "" if machine.started is None else output.duration(time.time() - machine.started),
        note(machine),
    ]


def note(machine: MachineInfo) -> str:
    """What else there is to say in a line: why it is broken, how it ended."""
    if machine.problem or machine.exit is None:
        return machine.problem
    ago = "" if machine.exit.time is None else f" {output.duration(time.time() - machine.exit.time)} ago"
    return f"{machine.exit.words}{ago}"
