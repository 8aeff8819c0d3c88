"""A longer piece of work with the agent, which lets others have their turn in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from kvmctl.guest.agent import Agent
from kvmctl.guest.session import REPLY_MAX, Request, Session
from kvmctl.guest.talk import Pace


class Turn:
    """The agent's channel: taken with the first question, given back at every longer rest, taken again."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._session: Session | None = None
        self._pace = Pace()

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit: int = REPLY_MAX
    ) -> Any:
        """Run one command of the agent and return its reply. Raises AgentError and DeadlineExceeded."""
        return await (await self._open()).execute(command, arguments, limit=limit)

    async def execute_all(self, requests: Sequence[Request], *, limit: int = REPLY_MAX) -> list[Any]:
        """Run commands one after the other, all sent at once; a refusal is an AgentError in its reply's place.

        Raises AgentError and DeadlineExceeded.
        """
        return await (await self._open()).execute_all(requests, limit=limit)

    async def _open(self) -> Session:
        if self._session is None:
            self._session = await self._agent.open()
            self._pace.taken = _now()
        return self._session

    def note_activity(self) -> None:
        """Something has begun or come: it is worth asking again soon."""
        self._pace.active = _now()

    async def rest(self, *, wake: asyncio.Event | None = None) -> None:
        """Wait before asking the same again, and longer the longer nothing has come; or until `wake` is set."""
        rest, is_long = self._pace.rest(_now())
        if is_long:
            self.give_back()
        if wake is None:
            await asyncio.sleep(rest)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(rest):
                await wake.wait()
        wake.clear()

    def give_back(self) -> None:
        """Let the next client have the channel."""
        if self._session is not None:
            self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()


def _now() -> float:
    return asyncio.get_running_loop().time()
