"""What a piece of work with the agent is done through: `kvmctl.guest.turn` in asyncio, `kvmctl.guest.blocking` without.

The work itself (commands, files, streams) is written once, as coroutines that await nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kvmctl.guest.session import REPLY_MAX, Request


class Talk(Protocol):
    """The agent, asked again and again."""

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit: int = REPLY_MAX
    ) -> Any:
        """Run one command of the agent and return its reply. Raises AgentError and DeadlineExceeded."""

    async def execute_all(self, requests: Sequence[Request], *, limit: int = REPLY_MAX) -> list[Any]:
        """Run commands one after the other, all sent at once; a refusal is an AgentError in its reply's place.

        Raises AgentError and DeadlineExceeded.
        """

    def note_activity(self) -> None:
        """Something has begun or come: it is worth asking again soon."""

    async def rest(self) -> None:
        """Wait before asking the same again, and longer the longer nothing has come."""

    def give_back(self) -> None:
        """Let the next client have the channel."""


class Pace:
    """How long to wait between two questions. The protocol announces nothing; asking again is its only way to wait."""

    SHORTEST = 0.0005
    LONGEST = 0.05
    """Seconds."""
    _IMPATIENCE = 4
    """A rest is this fraction of the time for which nothing has happened: what took long may take a little longer."""
    _HOLD = 1.0
    """Seconds after which the channel goes to whoever waits for it."""

    def __init__(self) -> None:
        self.taken = 0.0
        """When the channel was taken."""
        self.active = 0.0
        """When something has last begun or come."""

    def rest(self, now: float) -> tuple[float, bool]:
        """Seconds to wait, and whether others are to have the channel meanwhile."""
        rest = min(max((now - self.active) / self._IMPATIENCE, self.SHORTEST), self.LONGEST)
        return rest, rest == self.LONGEST or now - self.taken > self._HOLD
