"""A longer piece of work with the agent, which lets others have their turn in between: in asyncio."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from kvmctl.guest.agent import Agent
from kvmctl.guest.session import Session
from kvmctl.guest.talk import Turns


class Turn(Turns):
    """Turns at the agent's channel, until the end of a context."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent

    async def rest(self, *, wake: asyncio.Event | None = None) -> None:
        """Wait before asking the same again, and longer the longer nothing has come; or until `wake` is set."""
        rest = self._begin_rest()
        if wake is None:
            await asyncio.sleep(rest)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(rest):
                await wake.wait()
        wake.clear()

    async def _open(self) -> Session:
        return await self._agent.open()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()
