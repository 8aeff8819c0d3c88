"""What ``kvmctl fork`` does, with and without typer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from signal import SIG_IGN, SIGHUP, SIGTERM, getsignal, signal

import kvmctl
from kvmctl.cli import output
from kvmctl.cli.ending import ending_well


def choose_names(template: str, name: str | None, *, count: int = 1) -> list[str]:
    """The names of the forks: the one given, with a number where there are several, else the next that are free."""
    if name is not None:
        return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
    taken = set(kvmctl.machine_names())
    free = (word for number in range(1, len(taken) + count + 1) if (word := f"{template}-{number}") not in taken)
    return [next(free) for _ in range(count)]


def find_plain(words: Sequence[str]) -> tuple[str, str | None] | None:
    """The template, and the name if there is one, in what follows ``fork``; None where it says more than that."""
    match words:
        case [template] if not template.startswith("-"):
            return template, None
        case [template, name] if not template.startswith("-") and not name.startswith("-"):
            return template, name
        case _:
            return None


def main(template: str, name: str | None) -> bool:
    """The whole of ``kvmctl fork TEMPLATE [NAME]``; False where there is more to it, and nothing was done."""
    with ending_well(), _ended_by_signals():
        (chosen,) = choose_names(template, name)
        if not kvmctl.fork_quickly(template, name=chosen):
            return False
        output.emit(chosen)
        return True


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this as Ctrl-C does, so that it clears away."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: getsignal(number) for number in (SIGTERM, SIGHUP)}
    for number, handler in before.items():
        if handler is not SIG_IGN:  # as nohup has it
            signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal(number, handler)
