"""``kvmctl restart``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl import attach, find_machine, prepare
from kvmctl.cli.arguments import Name
from kvmctl.cli.session import run
from kvmctl.cli.starting import start_detached
from kvmctl.cli.stop import say_stopped, stop_gracefully


def restart(
    name: Name,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="How long the guest may take to stop.")
    ] = 30,
) -> None:
    """Stop a machine and start it again, from its spec as it is now.

    A spec that has problems by now, or is gone, is told before anything is stopped.

    To let the guest start again with everything as it is: kvmctl reset, or a reboot from within.
    """
    source = _spec_of(name)
    prepare(source, name=name)  # what can't be started again is not stopped
    say_stopped(stop_gracefully(name, grace=timeout))
    start_detached(source, name=name)


def _spec_of(name: str) -> str:
    """What to start again: the machine's defined spec, or the file it was started from."""
    if find_machine(name).is_defined:
        return name

    async def source() -> str:
        async with attach(name) as vm:
            return vm.plan.source

    return run(source())
