"""``kvmctl boot``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from kvmctl import Boot, BootProfile, Stage, percentile, profile_boot
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Json, Spec
from kvmctl.cli.output import Column

_COLUMNS: Final = (Column("STAGE"), Column("P50", right=True), Column("P95", right=True), Column("UNTIL"))
_UNTIL: Final = {
    Stage.QEMU: "QEMU lets the guest run",
    Stage.FIRMWARE: "the kernel's clock starts, or of another guest: its console's first byte",
    Stage.KERNEL: "the kernel starts the first process",
    Stage.INIT: "the guest agent opens its channel",
    Stage.AGENT: "the agent answers",
    Stage.EXEC: "the first command has ended",
}


def boot(
    machine: Spec,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went. There is no boot without.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="How many times.")] = 5,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="How long one boot may take.")
    ] = 120,
    json: Json = False,
) -> None:
    """Boot copies of a machine, and say where the time went.

    Each is a cold boot of a copy that leaves nothing: disks are only read, UEFI variables are as new. What a guest
    can't be asked for, since it has no agent or is no Linux, is left out, and its time is in the stage after it. P50
    and P95 are what half of the boots, and 95 of 100, did not exceed.

    \b
    kvmctl boot --profile web
    kvmctl boot --profile tiny -n 20
    kvmctl boot --profile ./web.toml --json | jq .p50.total
    """
    if not profile:
        raise typer.BadParameter("is what it is for; to start a machine: kvmctl start", param_hint="--profile")
    found = session.run(profile_boot(machine, count=count, deadline=timeout, on_boot=_tell))
    if json:
        output.print_json(_record(found))
        return
    output.say(f"{found.machine}: {count} boots, {found.accel}, QEMU {found.qemu_version}")
    rows = [(stage.value, found.seconds(stage), _UNTIL[stage]) for stage in Stage if found.seconds(stage)]
    rows.append(("total", found.totals, ""))
    output.print_table(_COLUMNS, [[name, *_quantiles(values), until] for name, values, until in rows])


def _tell(boot: Boot) -> None:
    stages = ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in boot.stages.items())
    output.say(f"booted in {boot.total:.3f} s: {stages}")


def _quantiles(values: list[float]) -> list[str]:
    return [f"{percentile(values, percent):.3f} s" for percent in (50, 95)]


def _record(found: BootProfile) -> dict[str, object]:
    def summary(percent: int) -> dict[str, float]:
        stages = {stage: percentile(found.seconds(stage), percent) for stage in Stage if found.seconds(stage)}
        return _rounded(stages, percentile(found.totals, percent))

    return {
        "machine": found.machine,
        "accel": found.accel,
        "qemu_version": found.qemu_version,
        "boots": [_rounded(boot.stages, boot.total) for boot in found.boots],
        "p50": summary(50),
        "p95": summary(95),
    }


def _rounded(stages: Mapping[Stage, float], total: float) -> dict[str, float]:
    """By name, and to the microsecond, which is as exact as QEMU's events."""
    return {**{stage.value: round(seconds, 6) for stage, seconds in stages.items()}, "total": round(total, 6)}
