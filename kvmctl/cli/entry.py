"""The console script: typer reads the command line, but for a plain ``start NAME``, ``exec NAME COMMAND`` and
``fork TEMPLATE [NAME]``.

typer takes as long to import as QEMU takes to come up, and there is nothing to read: who types only that, or starts
machines by the dozen, need not wait for it.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module

COMPLETE_VAR = "_KVMCTL_COMPLETE"
"""The environment variable by which a shell's completion script asks for completions."""
_RARELY = 100_000
"""Objects after which garbage is looked for. Of what is imported nothing is, and to look takes a tenth of the time."""


def _exec(words: list[str]) -> None:
    """Run a command in a guest, quickly where it is a plain one, and the machine as it is most of the time."""
    executing = import_module("kvmctl.cli.executing")
    if (plain := executing.find_plain(words)) is not None:
        executing.main(*plain)  # returns where there is more to it
    import_module("kvmctl.cli.main").main()


def _fork(words: list[str]) -> None:
    """Start a fork, quickly where it is asked for plainly, and the template as most are."""
    forking = import_module("kvmctl.cli.forking")
    if (plain := forking.find_plain(words)) is not None and forking.main(*plain):
        return
    import_module("kvmctl.cli.main").main()


def main() -> None:
    """Run this process's command line and exit with its status."""
    gc.set_threshold(_RARELY)
    try:
        match sys.argv[1:]:
            case ["start", machine] if not machine.startswith("-") and COMPLETE_VAR not in os.environ:
                import_module("kvmctl.cli.starting").main(machine)
            case ["exec", *words] if COMPLETE_VAR not in os.environ:
                _exec(words)
            case ["fork", *words] if COMPLETE_VAR not in os.environ:
                _fork(words)
            case _:
                import_module("kvmctl.cli.main").main()
    finally:
        gc.freeze()  # or the interpreter, on its way out, would look through all modules for garbage
