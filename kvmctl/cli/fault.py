"""``kvmctl fault``: what goes wrong with real machines, done to a virtual one while it runs."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from kvmctl import KvmctlError, Vm, parse_size
from kvmctl.cli import output
from kvmctl.cli.arguments import Name
from kvmctl.cli.session import on_machine


class Link(StrEnum):
    """What becomes of a cable."""

    DOWN = "down"
    UP = "up"


class DiskFault(StrEnum):
    """What becomes of a disk."""

    FAIL = "fail"
    FULL = "full"
    SLOW = "slow"
    MEND = "mend"


def fault() -> None:
    """Let something go wrong with a machine.

    A power cut is kvmctl kill, and a memory squeeze is kvmctl balloon.
    """


def network(
    name: Name,
    link: Annotated[Link, typer.Argument(help="Pull the cable, or put it back.")],
    card: Annotated[str | None, typer.Option("--card", metavar="ID", help="This card; else all of them.")] = None,
) -> None:
    """Pull a machine's network cable, or put it back.

    The guest sees the carrier go and come.

    \b
    kvmctl fault network web down
    kvmctl fault network web up
    """
    on_machine(name, lambda vm: vm.faults.cut_network(card) if link is Link.DOWN else vm.faults.mend_network(card))


def disk(
    name: Name,
    what: Annotated[DiskFault, typer.Argument(help="Requests fail, find no room, are slow; or all is well again.")],
    disk_id: Annotated[str | None, typer.Option("--disk", metavar="ID", help="This disk; else the only one.")] = None,
    on: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="KIND", help="Which fail: read, write, flush, discard, write-zeroes; repeatable."),
    ] = None,
    offset: Annotated[
        str | None, typer.Option("--offset", metavar="SIZE", help="Only at the sector there, such as 1MiB.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Only the first one of each kind.")] = False,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="SIZE", help="With slow: as much a second, such as 1MiB.")
    ] = None,
    iops: Annotated[int | None, typer.Option("--iops", min=1, help="With slow: as many requests a second.")] = None,
) -> None:
    """Let a machine's disk fail, be full or slow, or work again.

    What fails is told to the guest as an I/O error; a full disk stops the machine until kvmctl resume, unless the spec
    says otherwise (werror). mend undoes all of it, for every disk unless one is named.

    \b
    kvmctl fault disk web fail --on write
    kvmctl fault disk web slow --rate 1MiB
    kvmctl fault disk web mend
    """
    is_slow, is_failing = what is DiskFault.SLOW, what in {DiskFault.FAIL, DiskFault.FULL}
    if (rate is not None or iops is not None) is not is_slow:
        raise typer.BadParameter("slow, and only that, has a rate or a number of requests", param_hint="--rate, --iops")
    if (on or offset is not None or once) and not is_failing:
        raise typer.BadParameter(f"{what} fails no request", param_hint="--on, --offset, --once")
    kinds = on or (["write"] if what is DiskFault.FULL else ["read", "write"])
    at, speed = _bytes(offset, hint="--offset"), _bytes(rate, hint="--rate")

    async def work(vm: Vm) -> None:
        match what:
            case DiskFault.MEND:
                await vm.faults.mend_disk(disk_id)
            case DiskFault.SLOW:
                await vm.faults.slow_disk(disk_id, bytes_per_second=speed or 0, operations_per_second=iops or 0)
            case DiskFault.FAIL | DiskFault.FULL:
                error = "ENOSPC" if what is DiskFault.FULL else "EIO"
                await vm.faults.fail_disk(disk_id, error=error, on=kinds, offset=at, once=once)

    on_machine(name, work)


def stall(
    name: Name, seconds: Annotated[float, typer.Argument(min=0, metavar="SECONDS", help="For how long.")]
) -> None:
    """Give a machine's CPUs no time for a while.

    The guest's clocks run on, as on a host that has too much to do. For CPUs that halt with their clocks: kvmctl pause.

    \b
    kvmctl fault stall web 30
    """
    on_machine(name, lambda vm: vm.faults.stall(seconds))


def clock(
    name: Name,
    seconds: Annotated[float, typer.Argument(metavar="SECONDS", help="So much ahead; below 0, back.")],
) -> None:
    """Set the guest's clock ahead, or back.

    Through the guest agent; what it then says is printed.

    \b
    kvmctl fault clock web 86400
    kvmctl fault clock web -- -3600
    """
    now = on_machine(name, lambda vm: vm.faults.jump_clock(seconds))
    output.emit(output.rfc3339(datetime.fromtimestamp(now, UTC)))


def nmi(name: Name) -> None:
    """Send a machine a non-maskable interrupt.

    What the guest makes of that is its own affair: a Linux counts it and goes on, unless it is told to panic.
    """
    on_machine(name, lambda vm: vm.faults.inject_nmi())


def panic(name: Name) -> None:
    """Let the guest's kernel panic.

    A Linux, told through the guest agent to panic at an NMI, which it is then sent.
    """
    on_machine(name, lambda vm: vm.faults.crash_kernel())


def _bytes(text: str | None, *, hint: str) -> int | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    try:
        return parse_size(text)
    except KvmctlError as error:
        raise typer.BadParameter(f"{error.summary}; {error.hint}", param_hint=hint) from error
