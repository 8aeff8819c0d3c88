"""``kvmctl completion``: what makes the Tab key know verbs, options and machine names."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer doesn't advertise it

from kvmctl.cli import output


class Shell(StrEnum):
    """The shells that are served."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_INSTALL = {
    Shell.BASH: "kvmctl completion bash > ~/.local/share/bash-completion/completions/kvmctl",
    Shell.ZSH: 'In ~/.zshrc, after compinit: eval "$(kvmctl completion zsh)"',
    Shell.FISH: "kvmctl completion fish > ~/.config/fish/completions/kvmctl.fish",
}


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the completion script of a shell.

    \b
    kvmctl completion bash > ~/.local/share/bash-completion/completions/kvmctl
    kvmctl completion fish > ~/.config/fish/completions/kvmctl.fish
    eval "$(kvmctl completion zsh)"                 in ~/.zshrc, after compinit
    """
    output.emit(get_completion_script(prog_name="kvmctl", complete_var="_KVMCTL_COMPLETE", shell=shell.value))
    if sys.stdout.isatty():
        output.say(f"To install: {_INSTALL[shell]}")
