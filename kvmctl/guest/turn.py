"""A longer piece of work with the agent, which lets others have their turn in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from kvmctl.guest.agent import REPLY_MAX, Agent, Session

_SHORTEST_REST: Final = 0.0005
_LONGEST_REST: Final = 0.05
"""Seconds between two questions. The protocol announces nothing; asking again is its only way to wait."""
_IMPATIENCE: Final = 4
"""A rest is this fraction of the time for which nothing has happened: what took long may take a little longer."""
_HOLD: Final = 1.0
"""Seconds after which the channel goes to whoever waits for it. QEMU's agent is not back for up to 0.1 s then (it
sleeps while nobody is connected to its virtio port), so this is not done lightly."""


class Turn:
    """The agent's channel: taken with the first question, given back at every longer rest, taken again."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._session: Session | None = None
        self._since = 0.0
        self._active = 0.0

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit: int = REPLY_MAX
    ) -> Any:
        """Run one command of the agent and return its reply. Raises AgentError and DeadlineExceeded."""
        if self._session is None:
            self._session = await self._agent.open()
            self._since = _now()
        return await self._session.execute(command, arguments, limit=limit)

    def note_activity(self) -> None:
        """Something has begun or come: it is worth asking again soon."""
        self._active = _now()

    async def rest(self, *, wake: asyncio.Event | None = None) -> None:
        """Wait before asking the same again, and longer the longer nothing has come; or until `wake` is set."""
        rest = min(max((_now() - self._active) / _IMPATIENCE, _SHORTEST_REST), _LONGEST_REST)
        if rest == _LONGEST_REST or _now() - self._since > _HOLD:
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
