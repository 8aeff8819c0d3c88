"""A command run by the program that waits in the guest, for a process that has nothing else to do.

The port tells nothing of a guest that was reset, or that ended the program: whoever asks knows of that by other ways.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from kvmctl.errors import AgentError
from kvmctl.guest import messages
from kvmctl.guest.messages import NUMBER, Command, Kind
from kvmctl.guest.poll import BlockingWire, CommandSignals, Line, go
from kvmctl.guest.received import TimeIsUp

_SOON: Final = 0.25
"""Seconds after which a command is not a short one, and it is worth while to have somebody watch for its loss."""


class Watch(Protocol):
    """What is readable when something happens that may be the loss of the program."""

    def fileno(self) -> int:
        """The descriptor to wait on."""

    def drain(self) -> None:
        """Forget what has happened so far."""

    def close(self) -> None:
        """Stop watching."""


class Loss(Protocol):
    """How to know that the program is gone."""

    def watch(self) -> Watch:
        """Begin to watch. Raises StateError."""

    def has_come(self) -> bool:
        """Whether it is gone. Raises StateError."""


class ResidentPort:
    """A connection to the program, for one command. To be closed, which ends the command."""

    def __init__(self, line: Line, signals: CommandSignals, loss: Loss) -> None:
        self._wire = _Wire(line, signals, loss)

    def is_ready(self, *, patience: float) -> bool:
        """Whether the program says within `patience` seconds that it waits. Raises CommandInterrupted."""
        try:
            with messages.translated():
                self._wire.within(patience)
                go(messages.greet(self._wire))
        except (AgentError, TimeIsUp):
            return False
        self._wire.within(None)
        return True

    def run(self, argv: Sequence[str], *, puts: Sequence[Callable[[bytes], None]]) -> int | None:
        """Run a command until it ends, and return its exit code; None where it can't be run, and nothing was started.

        `puts` take its output as it comes. Raises AgentError, CommandInterrupted, StateError, and what `puts` raise.
        """
        request = messages.dumps_command(argv, is_streamed=True)
        if request is None:
            return None
        command = Command(puts)
        with messages.translated():
            go(messages.send(self._wire, Kind.RUN, request))
            self._wire.follow()
            while not command.take(*go(messages.receive(self._wire))):
                pass
        end = command.end()
        return None if end is None else end[0]

    def close(self) -> None:
        """Hang up."""
        self._wire.close()


class _Wire(BlockingWire):
    """The port, which signals for the command go to, and whose loss is noticed, while it is waited for."""

    def __init__(self, line: Line, signals: CommandSignals, loss: Loss) -> None:
        super().__init__(line, signals)
        self._loss = loss
        self._watch: Watch | None = None
        self._follows = False
        self._soon = 0.0

    def follow(self) -> None:
        """A command runs from now on."""
        self._follows = True
        self._soon = time.monotonic() + _SOON

    def close(self) -> None:
        """Hang up."""
        if self._watch is not None:
            self._watch.close()
        super().close()

    def _wait(self, descriptor: int, mask: int) -> None:
        if not self._follows:
            super()._wait(descriptor, mask)
            return
        if self._watch is None:
            with suppress(TimeIsUp):
                self._signals.wait(descriptor, mask, until=self._soon)
                self._pass_signals()
                return
            self._watch = self._loss.watch()
        else:
            self._signals.wait(descriptor, mask, until=None, beside=self._watch.fileno())
            self._watch.drain()
        if self._loss.has_come() and not _is_readable(descriptor):
            raise EOFError
        self._pass_signals()

    def _pass_signals(self) -> None:
        self._follows = False  # to be sent, they only wait for room
        for number in self._signals.take():
            go(messages.send(self, Kind.SIGNAL, NUMBER.pack(number)))
        self._follows = True


def _is_readable(descriptor: int) -> bool:
    """Whether something has come that was not read yet."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(mask & select.POLLIN for _, mask in poll.poll(0))
