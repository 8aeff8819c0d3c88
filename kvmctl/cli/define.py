"""``kvmctl define``, ``edit``, ``rm``: the specs of defined machines."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from signal import Signals
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

import kvmctl
from kvmctl.cli import output
from kvmctl.cli.arguments import Name


def define(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A machine spec.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Define it under this name.")] = None,
) -> None:
    """Keep a spec under its machine's name.

    From then on the name will do: kvmctl start NAME. The spec is copied with its comments, its relative paths made
    absolute; defining it again replaces it, which a running machine sees at its next start.

    \b
    kvmctl define machines/web.toml
    """
    definition = kvmctl.define(file, name=name)
    output.say(f"{definition.name}: {'replaced' if definition.replaced else 'defined'}: {definition.path}")
    output.emit(definition.name)


def edit(name: Name) -> None:
    """Change a defined machine's spec in an editor.

    $VISUAL or $EDITOR is started on a copy, which takes the spec's place once it has no problems. A running machine
    sees the change at its next start.
    """
    before = kvmctl.read_spec(name)
    text = before
    while True:
        text = _in_editor(text, name)
        if text == before or not text.strip():
            output.say(f"{name}: {'not changed' if text == before else 'left empty, so not changed'}")
            return
        try:
            _replace(name, before=before, after=text)
        except kvmctl.SpecError as error:
            output.fail(error)
            if not (sys.stdin.isatty() and typer.confirm("Edit it again?", default=True, err=True)):
                output.say(f"{name}: not changed")
                raise typer.Exit(error.exit_code) from error
        else:
            output.say(f"{name}: changed")
            return


def rm(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove a machine: its spec and everything kvmctl made for it.

    What will be deleted is listed first. Disks that the spec names by path are yours and stay.
    """
    doomed = kvmctl.files_of(name)
    output.say(f"This deletes machine {name!r}:")
    for path in doomed:
        output.say(f"  {path}")
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("there is no terminal to ask on; say --yes")
        typer.confirm("Delete it?", abort=True, err=True)
    kvmctl.remove(name)


def _in_editor(text: str, name: str) -> str:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with TemporaryDirectory(prefix="kvmctl-") as directory:
        copy = Path(directory, f"{name}.toml")
        copy.write_text(text, encoding="utf-8")
        _run_editor(editor, str(copy))
        try:
            return copy.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise kvmctl.KvmctlError(f"the editor {editor!r} left no spec", hint="Nothing was changed.") from error
        except UnicodeDecodeError as error:
            raise kvmctl.KvmctlError(
                f"what the editor {editor!r} left is not UTF-8: {error.reason} at byte {error.start}",
                hint="Nothing was changed.",
            ) from error


def _run_editor(editor: str, path: str) -> None:
    hint = "Nothing was changed. Set VISUAL or EDITOR to the editor you use."
    try:
        words = shlex.split(editor)
    except ValueError as error:
        raise kvmctl.KvmctlError(f"{editor!r} is not a command line: {error}", hint=hint) from error
    try:
        status = subprocess.run([*words, path], check=False).returncode
    except OSError as error:
        raise kvmctl.KvmctlError(f"the editor {editor!r} failed: {error.strerror}", hint=hint) from error
    if status != 0:
        end = f"{Signals(-status).name} ended it" if status < 0 else f"it exited with status {status}"
        raise kvmctl.KvmctlError(f"the editor {editor!r} failed: {end}", hint=hint)


def _replace(name: str, *, before: str, after: str) -> None:
    if kvmctl.read_spec(name) != before:
        raise kvmctl.Busy(f"the spec of {name!r} was changed by somebody else meanwhile", hint="Edit it once more.")
    kvmctl.write_spec(name, after)
