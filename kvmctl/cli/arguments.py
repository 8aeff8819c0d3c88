"""Arguments and options that verbs share, so that they are called the same everywhere."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

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


def complete_image(incomplete: str) -> list[str]:
    """The images that are there or can be had whose names begin with `incomplete`, for the Tab key."""
    try:
        names = kvmctl.image_names()
    except kvmctl.KvmctlError:
        return []
    return sorted(name for name in names if name.startswith(incomplete))


Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="NAME", help="The machine's name.", autocompletion=complete_machine)
]
_SPEC: Final = typer.Argument(
    metavar="MACHINE",
    help="The machine's name, the path of a spec (with a / or ending in .toml), or an image's name.",
    autocompletion=complete_machine,
)
Spec: TypeAlias = Annotated[str, _SPEC]
OptionalSpec: TypeAlias = Annotated[str | None, _SPEC]
TemplateName: TypeAlias = Annotated[
    str, typer.Argument(metavar="TEMPLATE", help="The template's name.", autocompletion=complete_template)
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
