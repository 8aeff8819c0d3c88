"""``kvmctl template``: machines frozen after their boot."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import Annotated, Final

import typer

import kvmctl
from kvmctl import TemplateInfo
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Json, TemplateName, complete_machine, complete_template
from kvmctl.cli.list import moment
from kvmctl.cli.output import Column

_COLUMNS: Final = (
    Column("NAME"),
    Column("MACHINE"),
    Column("MEMORY", right=True),
    Column("SIZE", right=True),
    Column("QEMU"),
    Column("FORKS"),
    Column("NOTE"),
)
_Names = Annotated[
    list[str], typer.Argument(metavar="TEMPLATE...", help="Their names.", autocompletion=complete_template)
]


def template() -> None:
    """Machines frozen after their boot: create, list, show, rm, gc.

    A template is a machine that was booted once, brought to where tests or work begin, and frozen: its memory, its
    devices and its disks. kvmctl fork makes machines of it that go on from there within milliseconds, each for itself.

    \b
    kvmctl template create web --from machines/web.toml --run 'systemctl start nginx'
    kvmctl run --template web -- curl -s http://localhost

    Forks of one template share pages of memory that none of them has written; like equal pages anywhere, these can
    tell one guest what another has touched. So give forks of one template to nobody who should not know of the others.
    """


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The template's name.")],
    machine: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="MACHINE",
            help="The machine's name, or the path of a spec (with a / or ending in .toml).",
            autocompletion=complete_machine,
        ),
    ],
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="CONDITION",
            help="agent (the default), ssh, cloud-init, unit:NAME, port:NUMBER, exec:COMMAND or console:REGEX.",
        ),
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option("--run", metavar="COMMAND", help="Then run this in the guest's shell.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="Give up where it is not ready by then."),
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Make it anew, whatever is there.")] = False,
) -> None:
    """Boot a machine once and freeze it, to be forked.

    What it was made of is remembered: made again of the same, the template is left as it is; where the spec, an image
    or QEMU is another one, that is said, and --refresh makes it anew. What many machines can't have at once (a share,
    a device of the host, one end of a cable) is refused. A card on a tap is left out, and plugged into each fork. Who
    gives up on a guest that does not get there is told what became of it.

    Forks get random numbers and a clock of their own by a program that the guest's agent lets us put there, or by the
    guest's perl or python. Where there is none of these, by nothing, and that is said.

    \b
    kvmctl template create web --from machines/web.toml --run 'systemctl start nginx' --until agent
    kvmctl fork web --count 10
    """
    making = kvmctl.create_template(name, machine, until=until, run=run or (), refresh=refresh, patience=timeout)
    made = session.run(making)
    for warning in (*made.record.warnings, *made.warnings):
        output.warn(f"{name}: {warning}")
    if not made.is_new:
        output.say(f"{name} is there already, made of the same")
    output.emit(name)


def list_(json: Json = False) -> None:
    """List the templates.

    One that can't be used any more says why.

    \b
    kvmctl template list --json | jq -r '.templates[] | select(.problem) | .name'
    """
    found = kvmctl.list_templates()
    if json:
        output.print_json({"templates": [_record(info) for info in found]})
    else:
        output.print_table(_COLUMNS, [_row(info) for info in found])


def show(name: TemplateName, json: Json = False) -> None:
    """Show what a template was made of, and whether it can be used.

    \b
    kvmctl template show web --json | jq .made_of
    """
    info = kvmctl.find_template(name)
    if json:
        output.print_json(_record(info))
    else:
        output.print_pairs(_pairs(info))


def rm(names: _Names) -> None:
    """Remove templates.

    Forks of a template live on its files: one that has some is not removed.
    """
    for name in names:
        kvmctl.remove_template(name)


def gc(yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False) -> None:
    """Remove the templates that can't be used any more.

    Those are the ones whose QEMU, images or files are not what they were, and that no fork lives on.
    """
    doomed = [info for info in kvmctl.list_templates() if info.problem and not info.in_use]
    for info in doomed:
        output.say(info.problem)
    if doomed and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("there is no terminal to ask on; say --yes")
        typer.confirm("Delete them?", abort=True, err=True)
    for info in kvmctl.collect_templates() if doomed else ():
        output.emit(info.name)


def _row(info: TemplateInfo) -> list[str]:
    record = info.record
    return [
        info.name,
        record.source.machine_type if record else "",
        output.size(record.plan.memory) if record else "",
        output.size(info.size),
        record.source.qemu_version if record else "",
        "yes" if info.in_use else "",
        info.problem,
    ]


def _record(info: TemplateInfo) -> dict[str, object]:
    record = info.record
    return {
        "name": info.name,
        "directory": info.directory,
        "size": info.size,
        "in_use": info.in_use,
        "problem": info.problem or None,
        "created": moment(record.created) if record else None,
        "memory": record.plan.memory if record else None,
        "networks": record.plan.networks if record else None,
        "renew": record.renew if record else None,
        "made_of": record.source if record else None,
    }


def _pairs(info: TemplateInfo) -> Iterator[tuple[str, str]]:
    yield "Name", info.name
    yield "Usable", info.problem or "yes"
    if record := info.record:
        source = record.source
        yield "Made", f"{moment(record.created):%Y-%m-%d %H:%M:%S} UTC"
        yield "Machine", f"{source.machine_type}, QEMU {source.qemu_version} ({source.qemu})"
        yield "Memory", output.size(record.plan.memory)
        for network in record.plan.networks:
            is_plugged = network.mac is None
            yield "Network", f"{network.id}  {network.type}{'  plugged into each fork' if is_plugged else ''}"
        yield "Until", source.until
        yield from (("Run", command) for command in source.commands)
        yield from (("Read", f"{record.keys.get(path, '')}  {path}") for path in source.inputs)
        yield "Renewed by", shlex.join(record.renew) if record.renew else "nothing: see kvmctl template create --help"
    yield "Forks", "yes" if info.in_use else "none"
    yield "Files", info.directory
