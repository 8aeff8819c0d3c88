"""``kvmctl verdict``."""

from __future__ import annotations

from kvmctl import find_verdict
from kvmctl.cli import output
from kvmctl.cli.arguments import Json, Name


def verdict(name: Name, json: Json = False) -> None:
    """Say what became of a machine, and how one can tell.

    Of one that runs, or of the last run of one that does not: the first thing that went wrong, as its console, its
    events, QEMU's log and the host's kernel tell. Where nothing fits that is known, it says so and shows the end of
    the console. The kinds there are: docs/verdicts.md.

    \b
    kvmctl verdict web
    kvmctl verdict web --json | jq -r .kind
    """
    found = find_verdict(name)
    if json:
        output.print_json({"name": name, "kind": found.kind, "summary": found.summary, "evidence": found.evidence,
                           "hint": found.hint or None})  # fmt: skip
        return
    output.emit(output.printable(str(found)))
    if found.hint:
        output.say_marked("hint", found.hint, colour="cyan")
