"""``kvmctl qmp``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from kvmctl.cli import output
from kvmctl.cli.arguments import Name
from kvmctl.cli.session import on_machine


def qmp(
    name: Name,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="A QMP command, such as query-block.")],
    arguments: Annotated[str, typer.Argument(metavar="[JSON]", help="Its arguments, a JSON object.")] = "{}",
) -> None:
    """Send QEMU a monitor command.

    Its reply is printed as JSON, as QEMU gave it. What changes a machine in this way, kvmctl does not know of.

    \b
    kvmctl qmp web query-block
    kvmctl qmp web device_del '{"id": "disk1"}'
    kvmctl qmp web human-monitor-command '{"command-line": "info mtree"}' | jq -r .
    """
    values = _parse(arguments)
    output.print_reply(on_machine(name, lambda vm: vm.qmp(command, values)))


def _parse(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{text!r} is not a JSON object")
    return values
