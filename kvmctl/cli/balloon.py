"""``kvmctl balloon``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl import Balloon, KvmctlError, Vm, parse_size
from kvmctl.cli import output
from kvmctl.cli.arguments import Json, Name
from kvmctl.cli.output import Column
from kvmctl.cli.session import on_machine


def balloon(
    name: Name,
    size: Annotated[str | None, typer.Argument(metavar="[SIZE]", help="How much it may keep, such as 512MiB.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="How long to wait for the guest; 0: not.")
    ] = 10,
    json: Json = False,
) -> None:
    """Show or change how much memory a machine has.

    The guest gives memory back as it can, which takes a moment; what it has then is printed, with what it last said of
    its use where the spec asks for statistics.

    \b
    kvmctl balloon web
    kvmctl balloon web 512MiB
    """
    wanted = None if size is None else _bytes(size)
    found = on_machine(
        name,
        lambda vm: _balloon(vm, wanted, patient=timeout > 0),
        timeout=None if wanted is None else timeout or None,
        doing=f"wait for the guest to come to {size}",
        hint=f"It is still asked to; how far it came: kvmctl balloon {name}",
    )
    if json:
        output.print_json({"name": name, "actual": found.actual, "wanted": wanted, "statistics": found.statistics})
        return
    rows = [("actual", found.actual), *sorted(found.statistics.items())]
    cells = [[key.removeprefix("stat-").replace("-", " "), _value(key, number)] for key, number in rows]
    output.print_table([Column("MEMORY"), Column("SIZE", right=True)], cells)


def _bytes(text: str) -> int:
    try:
        return int(text) if text.isdecimal() else parse_size(text)
    except KvmctlError as error:
        raise typer.BadParameter(f"{error.summary}; {error.hint}", param_hint="SIZE") from error


async def _balloon(vm: Vm, wanted: int | None, *, patient: bool) -> Balloon:
    if wanted is None:
        return await vm.balloon()
    await vm.set_balloon(wanted)
    return await (vm.wait_for_balloon(wanted) if patient else vm.balloon())


def _value(key: str, number: int) -> str:
    is_count = key.startswith(("stat-major", "stat-minor", "stat-htlb"))
    return str(number) if is_count else output.size(number)
