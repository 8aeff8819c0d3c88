"""A plain command through the guest's agent, without asyncio. See `kvmctl.runtime.quickexec`, which asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kvmctl.errors import KvmctlError
from kvmctl.guest.blocking import BlockingTurn, run_streamed
from kvmctl.guest.poll import CommandSignals
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import deferred, records
from kvmctl.runtime.fifos import Fifos

_PATIENCE: Final = 1.0
"""Seconds for an agent that is there to say so."""


def run(
    paths: MachinePaths, argv: Sequence[str], *, puts: Sequence[Callable[[bytes], None]], signals: CommandSignals
) -> int | None:
    """Run a command until it ends, and return its exit code; None where that can't be done so, and nothing was started.

    That is where the agent does not answer at once, or can't stream. Raises AgentError, DeadlineExceeded,
    CommandInterrupted, and what `puts` raise.
    """
    turn = BlockingTurn(lambda: _Line(paths), signals)
    try:
        turn.open(patience=_PATIENCE)
    except (KvmctlError, OSError):
        return None
    try:
        with records.marked(paths) as mark:
            end = run_streamed(turn, argv, puts=puts, mark=mark, signals=signals)
    finally:
        turn.give_back()
    return None if end is None else end.exit_code


class _Line(Fifos):
    """The FIFOs, whose turn is waited for in poll(2)."""

    def wait_for_turn(self, wait: Callable[[int], None]) -> None:
        """Wait until nobody else has them; `wait` waits for a descriptor."""
        if self.try_turn():
            return
        with deferred.watch_lock(self.lock_path) as watch:
            while not self.try_turn():  # looked at after the watch began: no closing goes unnoticed
                wait(watch.fileno())
                watch.read(timeout=0)
