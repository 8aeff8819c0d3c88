"""Arguments and options that verbs share, so that they are called the same everywhere."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

import kvmctl


def complete_machine(incomplete: str) -> list[str]:
    """The machines whose names begin with `incomplete`, for the Tab key, which must never fail."""
    try:
        names = kvmctl.machine_names()
    except kvmctl.KvmctlError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_template(incomplete: str) -> list[str]:
    """The templates whose names begin with `incomplete`."""
    try:
        names = kvmctl.template_names()
    except kvmctl.KvmctlError:
        return []
    return [name for name in names if name.startswith(incomplete)]


Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="NAME", help="The machine's name.", autocompletion=complete_machine)
]
Spec: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MACHINE",
        help="The machine's name, or the path of a spec (with a / or ending in .toml).",
        autocompletion=complete_machine,
    ),
]
TemplateName: TypeAlias = Annotated[
    str, typer.Argument(metavar="TEMPLATE", help="The template's name.", autocompletion=complete_template)
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
