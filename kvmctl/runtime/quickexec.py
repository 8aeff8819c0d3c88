"""A plain command in the guest, as quickly as a command line can have it run: without asyncio, pydantic, the plan.

Only where there is nothing to it: the machine runs, its agent is there and answers, nothing is to be undone in the
guest first, and nobody else has the channel. Whatever else there is, is found out before anything is started in the
guest, and left to `kvmctl.runtime.inside`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError
from kvmctl.guest.blocking import BlockingTurn, CommandSignals, run_streamed
from kvmctl.guest.command import check_command
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import deferred, records, store
from kvmctl.runtime.events import Event, State, derive
from kvmctl.runtime.fifos import Fifos
from kvmctl.runtime.journal import read_events

_PATIENCE: Final = 1.0
"""Seconds for an agent that is there to say so."""


def exec_quickly(
    name: str,
    argv: Sequence[str],
    *,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
    signals: CommandSignals,
    roots: Roots | None = None,
) -> int | None:
    """Run a command in the guest of the running machine `name` until it ends, and return its exit code.

    None where there is more to it, and nothing was started. CommandInterrupted ends it as `signals` have it. Raises
    AgentError, DeadlineExceeded, NotRunning.
    """
    with ExitStack() as stack:
        try:
            check_command(argv)
            paths = (roots or store.find_roots()).machine(name)
            process = store.find_process(paths)
            if process is None:
                return None
            stack.enter_context(process)
            turn = _take_turn(paths, signals)
        except (KvmctlError, OSError):
            return None  # to be told by who knows more of it
        if turn is None:
            return None
        stack.callback(turn.give_back)
        before = _count_resets(read_events(paths))
        try:
            with records.marked(paths) as mark:
                end = run_streamed(turn, argv, puts=(on_stdout, on_stderr), mark=mark, signals=signals)
        except (AgentError, DeadlineExceeded) as error:
            turn.give_back()
            deferred.raise_explained(error, paths, process, resets=before)
    return None if end is None else end.exit_code


def _take_turn(paths: MachinePaths, signals: CommandSignals) -> BlockingTurn | None:
    """The channel, in step with its agent; None where that is not to be had at once."""
    history = derive(read_events(paths))
    if history.state is not State.RUNNING or not history.agent_open or records.has_loose(paths):
        return None
    turn = BlockingTurn(lambda: _Line(paths), signals)
    turn.open(patience=_PATIENCE)
    return turn


def _count_resets(events: Sequence[Event]) -> int:
    return sum(event.name == "RESET" for event in events)


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
