"""``kvmctl cp``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl import Copied, Vm
from kvmctl.cli import output, session
from kvmctl.cli.arguments import complete_machine
from kvmctl.cli.progress import Bar


def _complete(incomplete: str) -> list[str]:
    return [f"{name}:" for name in complete_machine(incomplete)]


def cp(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="What to copy: a path, or NAME:PATH.", autocompletion=_complete)
    ],
    target: Annotated[
        str, typer.Argument(metavar="DST", help="Where to: a path, or NAME:PATH.", autocompletion=_complete)
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how much went which way, and how fast.")
    ] = False,
) -> None:
    """Copy files and directories into a machine and out of it.

    A path with a machine's name and a colon before it is the guest's; ./a:b is a file of this host. Into a directory
    that is there, the copy goes under its own name, as with cp -r. Modes, times and symbolic links are kept. All of a
    file comes, or none: it is put in its place when it is whole.

    It takes a guest agent, and no network; for guests without one there are scp and kvmctl ssh-config. Where the guest
    has no port for it, the agent does it in ten times the time, which -v tells.

    \b
    kvmctl cp ./site web:/srv/
    kvmctl cp web:/var/log/syslog .
    """
    name, there, is_outward = _parse(source, target)

    async def work(vm: Vm) -> Copied:
        with Bar(name) as bar:
            copy = vm.copy_out if is_outward else vm.copy_in
            here = (there, target) if is_outward else (source, there)
            return await copy(*here, on_progress=bar.show, on_wait=_say_waiting)

    copied = session.on_machine(name, work)
    for path in copied.skipped:
        output.warn(f"{path}: left out, being neither file, directory nor symbolic link")
    if verbose:
        _tell(copied)


def _parse(source: str, target: str) -> tuple[str, str, bool]:
    """The machine, the path in its guest, and whether it is copied from there."""
    ends = _machine_of(source), _machine_of(target)
    if all(ends) or not any(ends):
        raise typer.BadParameter("one of SRC and DST is to be NAME:PATH, in a machine, and the other a path here")
    name, path = ends[0] or ends[1] or ("", "")
    return name, path, ends[0] is not None


def _machine_of(word: str) -> tuple[str, str] | None:
    name, colon, path = word.partition(":")
    return (name, path) if colon and name and "/" not in name else None


def _say_waiting(holder: int | None) -> None:
    output.say("waiting for another copy to end" + (f": process {holder}" if holder else ""))


def _tell(copied: Copied) -> None:
    way = {"port": "the transfer port", "agent": "the agent's file calls, for want of a transfer port"}[copied.through]
    rate = output.size(int(copied.size / max(copied.seconds, 0.001)))
    output.say(f"{output.size(copied.size)} in {copied.seconds:.1f} s ({rate}/s), by {way}")
