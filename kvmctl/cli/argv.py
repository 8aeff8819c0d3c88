"""``kvmctl argv``: touches nothing, and needs neither KVM nor the images."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kvmctl import Plan, missing_images, plain, prepare, readable, shell_script
from kvmctl.cli import output
from kvmctl.cli.arguments import Json, Spec


def argv(
    machine: Spec,
    explain: Annotated[
        bool, typer.Option("--explain", help="Below each option, the key or default it is from.")
    ] = False,
    shell: Annotated[bool, typer.Option("--shell", help="Print a shell script, ready to paste.")] = False,
    json: Json = False,
) -> None:
    """Print the QEMU command line of a machine, and why each option is there.

    One option a line. <NAME> stands for a descriptor that kvmctl opens and QEMU inherits; in the script QEMU opens
    paths instead. Nothing is made, opened or started.

    \b
    kvmctl argv machines/tiny.toml --explain
    kvmctl argv web --shell >web.sh
    kvmctl argv web --json | jq -r '.options[] | select(.why | startswith("disks")) | .words[]'
    """
    if explain + shell + json > 1:
        raise typer.BadParameter("--explain, --shell and --json exclude each other")
    plan = prepare(machine, remember=False).plan
    if json:
        output.print_json(_record(plan))
    elif shell:
        output.emit(shell_script(plan))
    else:
        _print_options(plan, explain=explain)
    for warning in plan.warnings:
        output.warn(warning)
    for missing in missing_images(plan):
        output.warn(missing.summary)
        output.hint(missing)


def _print_options(plan: Plan, *, explain: bool) -> None:
    output.emit(" ".join([*plan.wrapper, plan.qemu]))
    for words, why in readable(plan):
        output.emit(output.printable(" ".join(words)))
        if explain:
            for line in why:
                output.emit(output.paint(f"    {output.printable(line)}", "dim", stream=sys.stdout))


def _record(plan: Plan) -> dict[str, object]:
    options = [
        {"words": words, "why": option.why, "reasons": option.reasons}
        for option, (words, _) in zip(plan.options, readable(plan), strict=True)
    ]
    return {
        "name": plan.name,
        "qemu": plan.qemu,
        "qemu_version": plan.qemu_version,
        "machine_type": plan.machine_type,
        "accel": {"name": plan.accel, "reason": plan.accel_reason},
        "argv": [*plan.wrapper, plan.qemu, *(word for option in options for word in option["words"])],
        "options": options,
        "descriptors": [{"kind": type(source).__name__, **plain(source)} for source in plan.fds],
        "helpers": [plain(helper) for helper in plan.helpers],
        "steps": [{"kind": type(step).__name__, **plain(step)} for step in plan.steps],
        "before_run": [plain(step) for step in plan.before_run],
        "warnings": plan.warnings,
    }
