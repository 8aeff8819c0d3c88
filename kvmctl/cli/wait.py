"""``kvmctl wait``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl import KvmctlError, parse_condition, wait_for
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Name


def wait(
    name: Name,
    condition: Annotated[
        str,
        typer.Option("--for", metavar="CONDITION", help="running, stopped, agent, console:REGEX or event:NAME."),
    ] = "stopped",
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="Exit with 10 after that.")
    ] = None,
) -> None:
    """Wait until a machine has come to a state.

    What it came to is printed: how it ended, the console's line, the event. A machine that ends before it came to
    it is an error at once. running waits for a machine that nobody has started yet, too; console:REGEX looks at
    everything the console has said since the start; event:NAME waits for the next one.

    \b
    kvmctl wait web --for 'console:login:' --timeout 60
    kvmctl wait web --for event:GUEST_PANICKED
    kvmctl wait web --for stopped
    """
    try:
        parsed = parse_condition(condition)
    except KvmctlError as error:
        raise typer.BadParameter(f"{error.summary}; {error.hint}", param_hint="--for") from error
    output.emit(output.printable(session.run(wait_for(name, parsed), timeout=timeout, doing=f"wait for {condition}")))
