"""What a piece of work with the agent is done through: `kvmctl.guest.turn` in asyncio, `kvmctl.guest.blocking` without.

The work itself (commands, files, streams) is written once, as coroutines that await nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from kvmctl.guest.session import REPLY_MAX, Request, Session

_SHORTEST_REST: Final = 0.0005
_LONGEST_REST: Final = 0.05
"""Seconds between two questions. The protocol announces nothing; asking again is its only way to wait."""
_IMPATIENCE: Final = 8
"""A rest is this fraction of the time for which nothing has happened: what took long may take a little longer."""
_HOLD: Final = 1.0
"""Seconds after which the channel goes to whoever waits for it."""


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

    async def leave(self, requests: Sequence[Request]) -> None:
        """Ask for what is done whether somebody waits for the answers or not, and give the channel to the next.

        Raises AgentError and DeadlineExceeded.
        """

    def note_activity(self) -> None:
        """Something has begun or come: it is worth asking again soon."""

    async def rest(self) -> None:
        """Wait before asking the same again, and longer the longer nothing has come."""

    def give_back(self) -> None:
        """Let the next client have the channel."""


class Turns:
    """The agent's channel: taken with the first question, given back at every longer rest, taken again.

    An edge says how it is taken, what time it is, and how to wait.
    """

    def __init__(self) -> None:
        self._session: Session | None = None
        self._taken = 0.0
        self._active = 0.0

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit: int = REPLY_MAX
    ) -> Any:
        """Run one command of the agent and return its reply. Raises AgentError and DeadlineExceeded."""
        return await (await self._ready()).execute(command, arguments, limit=limit)

    async def execute_all(self, requests: Sequence[Request], *, limit: int = REPLY_MAX) -> list[Any]:
        """Run commands one after the other, all sent at once; a refusal is an AgentError in its reply's place.

        Raises AgentError and DeadlineExceeded.
        """
        return await (await self._ready()).execute_all(requests, limit=limit)

    async def leave(self, requests: Sequence[Request]) -> None:
        """Ask for what is done whether somebody waits for the answers or not, and give the channel to the next.

        Raises AgentError and DeadlineExceeded.
        """
        await (await self._ready()).leave(requests)
        self.give_back()

    def note_activity(self) -> None:
        """Something has begun or come: it is worth asking again soon."""
        self._active = self._now()

    def give_back(self) -> None:
        """Let the next client have the channel."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _begin_rest(self) -> float:
        """Seconds to wait before asking again; the channel is given back for a longer one."""
        rest = min(max((self._now() - self._active) / _IMPATIENCE, _SHORTEST_REST), _LONGEST_REST)
        if rest == _LONGEST_REST or self._now() - self._taken > _HOLD:
            self.give_back()
        return rest

    async def _ready(self) -> Session:
        if self._session is None:
            self._take(await self._open())
        assert self._session is not None  # noqa: S101  # just taken
        return self._session

    def _take(self, session: Session) -> None:
        self._session = session
        self._taken = self._now()

    async def _open(self) -> Session:
        raise NotImplementedError

    def _now(self) -> float:
        raise NotImplementedError
