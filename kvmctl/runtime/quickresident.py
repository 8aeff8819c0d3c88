"""A plain command by the program that waits in the guest. See `kvmctl.runtime.quickexec`, which asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Final, NamedTuple

from kvmctl.guest.poll import CommandSignals
from kvmctl.guest.residentrun import ResidentPort, Watch
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import deferred
from kvmctl.runtime.events import ends_resident
from kvmctl.runtime.journal import read_events
from kvmctl.runtime.residentline import ResidentLine

_PATIENCE: Final = 2.0
"""Seconds for a program that is there to say so: it may have to end somebody's command first."""


def run(
    paths: MachinePaths,
    argv: Sequence[str],
    *,
    puts: Sequence[Callable[[bytes], None]],
    signals: CommandSignals,
    known: int,
) -> int | None:
    """Run a command until it ends, and return its exit code; None where that can't be done so, and nothing was started.

    `known` events of the machine had come when the program was there. Raises AgentError, CommandInterrupted,
    StateError, and what `puts` raise.
    """
    try:
        line = ResidentLine(paths)
    except OSError:
        return None  # somebody else is there
    with closing(ResidentPort(line, signals, _Loss(paths, known))) as port:
        return port.run(argv, puts=puts) if port.is_ready(patience=_PATIENCE) else None


class _Loss(NamedTuple):
    """The loss of the program, which the journal tells of."""

    paths: MachinePaths
    known: int

    def watch(self) -> Watch:
        """Begin to watch the journal."""
        return deferred.watch_journal(self.paths)

    def has_come(self) -> bool:
        """Whether it tells of it."""
        return any(map(ends_resident, read_events(self.paths)[self.known :]))
