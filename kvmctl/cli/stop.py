"""``kvmctl stop``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

import kvmctl
from kvmctl import StopResult
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Json, Name
from kvmctl.cli.list import moment

_RUNGS: Final = {
    "agent": "asked by its guest agent",
    "acpi": "asked by the power button",
    "acpi-again": "asked by the power button, twice",
    "quit": "QEMU was told to quit",
    "kill": "QEMU was killed",
}


def stop(
    name: Name,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="How long the guest may take.")
    ] = 30,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Don't ask the guest; QEMU flushes its disks and ends.")
    ] = False,
    json: Json = False,
) -> None:
    """Ask a machine to power down, and see that it does.

    First its guest agent is asked, then the ACPI power button is pressed, and again; when the guest's time is up, QEMU
    is told to quit, and killed if it does not. What was needed is said at the end.

    \b
    kvmctl stop web --timeout 120
    kvmctl stop web --force
    """
    result = kvmctl.force_stop(name) if force else stop_gracefully(name, grace=timeout)
    if json:
        output.print_json(_record(result))
    else:
        say_stopped(result)


def stop_gracefully(name: str, *, grace: float) -> StopResult:
    """Climb the stop ladder, the guest having `grace` seconds."""
    return session.on_machine(name, lambda vm: kvmctl.stop(vm, grace=grace))


def say_stopped(result: StopResult) -> None:
    """Tell what was needed to stop the machine, and what was tried in vain."""
    for rung, outcome in result.tried:
        output.say(f"{result.name}: {_RUNGS[rung]}: {outcome}")
    output.say(f"{result.name}: stopped after {result.seconds:.1f} s: {_RUNGS[result.rung]}")


def _record(result: StopResult) -> dict[str, object]:
    end = result.exit
    return {
        "name": result.name,
        "step": result.rung,
        "seconds": round(result.seconds, 3),
        "tried": [{"step": rung, "outcome": outcome} for rung, outcome in result.tried],
        "exit": {"reason": end.reason, "time": moment(end.time), "status": end.status, "detail": end.detail},
    }
