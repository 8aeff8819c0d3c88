"""``kvmctl`` by way of typer: finds the verb and runs it.

The verbs are in ``kvmctl.cli.verbs``. The overview and completion are made from that table alone; only the verb that is
run is imported, and never rich, which typer would use for help and errors and which takes longer to import than typer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Annotated, Any, Protocol

import typer
import typer.main
from typer.completion import completion_init  # type: ignore[attr-defined]  # typer doesn't advertise it
from typer.core import TyperCommand, TyperGroup

from kvmctl import KvmctlError, __version__
from kvmctl.cli import output
from kvmctl.cli.ending import ending_well
from kvmctl.cli.entry import COMPLETE_VAR
from kvmctl.cli.verbs import GROUPS, VERBS, Verb


class _HelpFormatter(Protocol):
    """What is used of click's formatter, whose home differs between typer's versions."""

    def section(self, name: str) -> AbstractContextManager[None]: ...
    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None: ...


class LazyGroup(TyperGroup):
    """Verbs as empty commands, good for help and completion; the one that is asked for is loaded."""

    verbs: Mapping[str, Verb]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The loaded command that `args` begin with. Raises typer's usage error for a word that is no verb."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(self.verbs[str(name)]), rest

    def take(self, verbs: Iterable[Verb]) -> None:
        """Be the group of `verbs`."""
        self.verbs = {verb.name: verb for verb in verbs}
        for verb in self.verbs.values():
            self.add_command(TyperCommand(verb.name, help=verb.help, rich_markup_mode=None))


class VerbGroup(LazyGroup):
    """All verbs, under their headings."""

    def format_commands(self, ctx: object, formatter: _HelpFormatter) -> None:  # noqa: ARG002  # typer's signature
        """Write the overview, verbs under their headings."""
        for heading, verbs in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(verb.name, verb.help) for verb in verbs])

    def format_epilog(self, ctx: object, formatter: _HelpFormatter) -> None:  # noqa: ARG002
        """Write what the exit codes mean."""
        with formatter.section("Exit codes"):
            own = [(str(code), meaning) for code, meaning in exit_codes()]
            formatter.write_dl([*own, ("124 and up", "With exec and run -- COMMAND: see kvmctl exec --help")])


def exit_codes() -> list[tuple[int, str]]:
    """Every exit code of kvmctl's own and what it means; those of ``exec`` are in its own help."""
    classes = sorted(KvmctlError.__subclasses__(), key=lambda error: error.exit_code)
    own = [(error.exit_code, re.split(r"\.|;", error.__doc__ or "")[0]) for error in classes]
    return [(0, "Done"), (1, "Another error"), (2, "The command line is wrong"), *own, (130, "Interrupted")]


def load_command(verb: Verb) -> TyperCommand | LazyGroup:
    """The command of `verb`, its module imported; of a group the group, whose verbs are not."""
    function = getattr(import_module(f"kvmctl.cli.{verb.module}"), verb.attribute)
    if verb.verbs:
        return _group(verb, function)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(verb.name)(function)
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)  # noqa: S101  # what typer makes of a single function
    return command


def _group(verb: Verb, function: Callable[[], None]) -> LazyGroup:
    app = typer.Typer(name=verb.name, cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=True)
    app.callback()(function)
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)  # noqa: S101  # cls above
    group.take(verb.verbs)
    return group


def _print_version(value: bool) -> None:
    if value:
        output.emit(f"kvmctl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Machine specs in, running QEMU/KVM virtual machines out, and no daemon.

    \b
    kvmctl run tiny                     run the embedded guest on this terminal
    kvmctl define machines/web.toml     keep a machine's spec, then
    kvmctl start web                    start it in the background
    kvmctl list                         see what runs
    kvmctl stop web                     power it down

    A MACHINE is a name, or the path of a spec when it has a / or ends in .toml. `kvmctl VERB --help` tells of a verb.
    """


def cli() -> TyperGroup:
    """The whole command line as one group."""
    app = typer.Typer(
        cls=VerbGroup,
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    group = typer.main.get_command(app)
    assert isinstance(group, VerbGroup)  # noqa: S101  # cls above
    group.take(VERBS.values())
    return group


def main() -> None:
    """Run this process's command line and exit with its status."""
    if COMPLETE_VAR in os.environ:
        completion_init()
    with ending_well():
        cli().main(prog_name="kvmctl", complete_var=COMPLETE_VAR)
