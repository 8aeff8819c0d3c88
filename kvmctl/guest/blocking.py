"""A command run through the agent by a process that has nothing else to do, and does not import asyncio for it.

`kvmctl.guest.poll` is the edge; what is asked of the agent is `kvmctl.guest.spool`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from kvmctl.errors import DeadlineExceeded, KvmctlError
from kvmctl.guest.command import End
from kvmctl.guest.poll import BlockingWire, CommandSignals, Line, go
from kvmctl.guest.received import TimeIsUp
from kvmctl.guest.session import PATIENCE, Session, open_session
from kvmctl.guest.shell import Setting
from kvmctl.guest.spool import GOODBYE, Streamed
from kvmctl.guest.talk import Turns


class BlockingTurn(Turns):
    """Turns at the agent's channel, through the connections that `connect` makes."""

    def __init__(self, connect: Callable[[], Line], signals: CommandSignals) -> None:
        super().__init__()
        self._connect = connect
        self._signals = signals

    def open(self, *, patience: float) -> None:
        """Take the channel and get in step within `patience` seconds. Raises AgentError and DeadlineExceeded."""
        session = go(self._open(patience=patience))
        session.patience = PATIENCE
        self._take(session)

    async def rest(self) -> None:
        """Wait before asking the same again, and longer the longer nothing has come. Raises CommandInterrupted."""
        with suppress(TimeIsUp):
            self._signals.wait(-1, 0, until=self._now() + self._begin_rest())

    async def _open(self, *, patience: float = PATIENCE) -> Session:
        return await open_session(lambda: BlockingWire(self._connect(), self._signals), patience=patience)

    def _now(self) -> float:
        return time.monotonic()


def run_streamed(
    turn: BlockingTurn,
    argv: Sequence[str],
    *,
    puts: Sequence[Callable[[bytes], None]],
    mark: str,
    signals: CommandSignals,
) -> End | None:
    """Run a command in the guest until it ends, as `kvmctl.guest.run.run` does one that streams.

    None where the guest can't stream, and nothing was started. Raises AgentError, DeadlineExceeded, CommandInterrupted,
    and what `puts` raise.
    """
    command = Streamed(turn, puts, mark=mark, is_last=True)
    try:
        with signals.held():  # to be ended, it must be known
            has_begun = go(command.begin(argv, Setting()))
        signals.check()
        if not has_begun:
            return None
        end = _follow(command, turn, signals)
        go(command.close())
    except DeadlineExceeded:
        signals.check()
        raise  # the agent would not hear a goodbye either
    except BaseException:
        with signals.held(GOODBYE), suppress(KvmctlError):
            go(command.abandon())
        raise
    return end


def _follow(command: Streamed, turn: BlockingTurn, signals: CommandSignals) -> End:
    while True:
        for number in signals.take():
            go(command.signal(number))
        end, has_come = go(command.look())
        if end is not None:
            return end
        if has_come:
            turn.note_activity()
        go(turn.rest())
