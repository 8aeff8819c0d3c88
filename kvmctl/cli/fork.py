"""``kvmctl fork``."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import quantiles
from typing import Annotated, Final

import typer

from kvmctl import Profile, Template, load_template
from kvmctl.cli import output, session
from kvmctl.cli.arguments import TemplateName
from kvmctl.cli.forking import choose_names
from kvmctl.cli.output import Column

_STAGES: Final = {
    "spawned": "QEMU started",
    "greeted": "QEMU answered",
    "loaded": "state loaded",
    "running": "running",
    "renewed": "guest renewed",
}


def fork(
    template: TemplateName,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The machine's name; else the template's and a number.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10000, metavar="N", help="Start so many.")] = 1,
    hostnames: Annotated[
        bool, typer.Option("--hostname", help="Call each guest as its machine; else they are called as it was.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Only measure: fork, run `true`, and print how long it took.")
    ] = False,
) -> None:
    """Start machines that go on where a template was frozen.

    Each has memory and disks of its own, copy-on-write, fresh random numbers, the time of now, ports of the host that
    QEMU chooses and, on a tap, a card with an address of its own (kvmctl show NAME). All of them are started, or none.
    Their names are printed; like others they run until they power off or somebody stops them, and kvmctl rm removes
    what is left.

    \b
    kvmctl fork web
    kvmctl fork web test --count 20
    kvmctl fork web --profile --count 20
    """
    found = load_template(template)
    if profile:
        _print_profiles(session.run(_measure(found, count)))
        return
    names = choose_names(template, name, count=count)
    session.run(found.fork_detached(names, hostnames=hostnames))
    for each in names:
        output.emit(each)


async def _measure(template: Template, count: int) -> list[tuple[Profile, float]]:
    """How long each of `count` forks took, one after the other, and when its guest had run a command: 0 for none."""
    found = []
    for _ in range(count):
        async with await template.fork() as vm:
            can_run = template.record.renew is not None
            if can_run:
                await vm.exec(["true"])
            found.append((vm.profile, vm.profile.now() if can_run else 0.0))
    return found


def _print_profiles(found: list[tuple[Profile, float]]) -> None:
    columns = (Column("STAGE"), Column("P50 MS", right=True), Column("P95 MS", right=True))
    rows = [(title, [getattr(profile, stage) for profile, _ in found]) for stage, title in _STAGES.items()]
    rows.append(("first exec done", [seconds for _, seconds in found]))
    output.print_table(columns, [[title, *_percentiles(times)] for title, times in rows if any(times)])


def _percentiles(times: list[float]) -> Iterator[str]:
    cuts = quantiles(times, n=20, method="inclusive") if len(times) > 1 else [times[0]] * 19
    for cut in (cuts[9], cuts[18]):
        yield f"{cut * 1000:.1f}"
