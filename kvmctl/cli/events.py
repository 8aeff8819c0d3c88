"""``kvmctl events``."""

from __future__ import annotations

from json import dumps
from typing import Annotated

import typer

from kvmctl import Happening, read_all_events, read_events
from kvmctl.cli import output
from kvmctl.cli.arguments import complete_machine
from kvmctl.cli.list import moment


def events(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The machine's name; without it, all.", autocompletion=complete_machine),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print what happened to a machine, or follow it.

    The events are QEMU's own, by the names of its QMP reference, of each machine's present or last run. QEMU keeps them
    itself: they are there even if nothing was watching.

    \b
    kvmctl events web
    kvmctl events --follow --json | jq --unbuffered 'select(.event == "GUEST_PANICKED")'
    """
    found = read_all_events(follow=follow) if name is None else read_events(name, follow=follow)
    for happening in found:
        if json:
            output.print_json_line(_record(happening))
        else:
            output.emit(output.printable(_line(happening)))


def _record(happening: Happening) -> dict[str, object]:
    machine, event = happening
    return {"time": moment(event.time), "machine": machine, "event": event.name, "data": event.data}


def _line(happening: Happening) -> str:
    machine, event = happening
    when = moment(event.time)
    words = [output.rfc3339(when) if when else "", machine, event.name]
    words += [f"{key}={value if isinstance(value, str) else dumps(value)}" for key, value in event.data.items()]
    return "  ".join(words)
