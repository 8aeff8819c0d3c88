"""``kvmctl wait``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

import kvmctl  # by name, when it is needed: a start that waits for nothing pays for none of it
from kvmctl import KvmctlError
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Name

if TYPE_CHECKING:
    from kvmctl import Condition


def wait(
    name: Name,
    condition: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="CONDITION", help="What to wait for, stopped unless given. May be repeated."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="Exit with 10 after that.")
    ] = None,
) -> None:
    """Wait until a machine has come to a state.

    To one of these, or with several --for to each:

    \b
    running          it runs; also of a machine that nobody has started yet
    stopped          it has ended
    agent            its guest agent answers
    ssh              one can log in; without keys of kvmctl's making, an ssh server speaks
    cloud-init       cloud-init has finished
    unit:NAME        the systemd unit is active, or has run
    port:NUMBER      something in the guest listens on the TCP port
    exec:COMMAND     the command succeeds in the guest
    console:REGEX    the console has said a line like that since the start
    event:NAME       QEMU tells of such an event from now on

    What it came to is printed: how it ended, the server's name, the console's line. A machine that ends before it came
    to it is an error at once, and so is a unit that fails. Nothing is taken to be so because a forwarded port accepts a
    connection: QEMU accepts it before it asks the guest. Who waits in vain is told what became of the machine: see
    kvmctl verdict.

    \b
    kvmctl wait web --for ssh --timeout 60
    kvmctl wait web --for cloud-init --for unit:nginx --for port:80
    kvmctl wait web --for 'console:login:'
    kvmctl wait web --for 'exec:test -e /run/ready'
    """
    wait_until(name, parse(condition or ["stopped"], option="--for"), timeout=timeout)


def parse(texts: Sequence[str], *, option: str) -> list[Condition]:
    """The conditions that `option` was given. Raises typer's usage error."""
    try:
        return [kvmctl.parse_condition(text) for text in texts]
    except KvmctlError as error:
        raise typer.BadParameter(f"{error.summary}; {error.hint}", param_hint=option) from error


def wait_until(name: str, conditions: Sequence[Condition], *, timeout: float | None, is_told: bool = True) -> None:
    """Wait until machine `name` has come to all of `conditions`, and print how it did if that is to be told."""
    seen = kvmctl.Sightings()
    doing = f"wait for {', '.join(map(str, conditions))}"
    work = kvmctl.wait_for_all(name, conditions, seen=seen)
    try:
        met = session.run(work, timeout=timeout, doing=doing, evidence=seen)
    except session.TimeIsUp as error:
        with suppress(KvmctlError):  # a machine that never ran leaves nothing to judge it by
            error.verdict = kvmctl.find_verdict(name)
        raise
    for said in met:
        if is_told:
            output.emit(output.printable(said))
