"""The whole of a plain ``kvmctl exec NAME COMMAND...``, without typer and asyncio."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, getsignal, signal
from typing import Final

import kvmctl
from kvmctl import CommandInterrupted, CommandSignals, KvmctlError
from kvmctl.cli import output
from kvmctl.cli.ending import ending_well

OUR_FAILURE: Final = 125
"""What ``exec`` exits with where kvmctl itself fails."""


def find_plain(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """The machine and the command in what follows ``exec``; None where there is an option, or something is amiss."""
    if len(words) < 2 or words[0].startswith("-"):
        return None
    machine, command = words[0], list(words[1:])
    if command[0] == "--":
        del command[0]
    elif any(word.startswith("-") for word in command):
        return None
    return (machine, command) if command else None


def main(machine: str, command: Sequence[str]) -> None:
    """Run it and exit with its code. Returns where there is more to it, and nothing was done."""
    with ending_well(), CommandSignals() as signals:
        try:
            with _signals_to(signals) as seen:
                code = kvmctl.exec_quickly(
                    machine, command, on_stdout=output.emit_bytes, on_stderr=output.say_bytes, signals=signals
                )
        except CommandInterrupted as error:
            sys.exit(128 + error.number)
        except KvmctlError as error:
            output.fail(error)
            sys.exit(OUR_FAILURE)
        if code is not None:
            sys.exit(code)
        if seen:
            sys.exit(128 + seen[0])  # there was no command yet that it could have gone to


@contextmanager
def _signals_to(signals: CommandSignals) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to the command; the second of them, and SIGHUP, end it. Gives those that came."""
    seen: list[int] = []

    def forward(number: int, _frame: object) -> None:
        seen.append(number)
        if len(seen) == 1:
            signals.forward(number)
        else:
            signals.end(number)

    def end(number: int, _frame: object) -> None:
        signals.end(number)

    before = {number: getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)}
    signal(SIGINT, forward)
    signal(SIGTERM, forward)
    if before[SIGHUP] is not SIG_IGN:  # as nohup has it
        signal(SIGHUP, end)
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal(number, handler)
