"""A client of the QEMU guest agent, for guests that may be slow, silent or hostile.

The channel has one user at a time, and the others wait their turn. So it is held for a `Session` only, which begins by
getting in step: ``guest-sync-delimited`` with a number of its own, everything before the answer dropped, be it stale
replies to somebody who left, or noise. A reply is one line of bounded length. Each answer has a deadline of its own
(`Agent.patience`); beyond that, time is the caller's (``asyncio.timeout``).

Source: QEMU's docs/interop/qemu-ga-ref. May import errors and plan.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kvmctl.errors import DeadlineExceeded
from kvmctl.guest.reply import take
from kvmctl.guest.session import PATIENCE, REPLY_MAX, Session, open_session
from kvmctl.guest.wire import Line, Wire

Connect: TypeAlias = Callable[[], socket.socket | Line]
"""Makes a connection to the agent's channel, or queues for one; raises OSError."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What a guest agent is: its version, and the commands it has and allows."""

    version: str
    commands: frozenset[str]


class Agent:
    """The guest agent behind a channel. Holds no connection between calls."""

    def __init__(self, connect: Connect, *, patience: float | None = PATIENCE) -> None:
        self._connect = connect
        self.patience = patience
        """Seconds for one answer; None waits for ever, and the caller's own deadline ends it."""

    async def open(self, *, patience: float | None = None) -> Session:
        """A session, in step; the caller closes it. `patience` is for its answers, and for being put in step the usual.

        Raises AgentError and DeadlineExceeded.
        """
        session = await open_session(lambda: Wire(self._connect()), patience=self.patience)
        if patience is not None:
            session.patience = patience
        return session

    @asynccontextmanager
    async def session(self, *, patience: float | None = None) -> AsyncIterator[Session]:
        """The channel for several commands in a row; nobody else is served meanwhile. For `patience` see `open`."""
        session = await self.open(patience=patience)
        try:
            yield session
        finally:
            session.close()

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit: int = REPLY_MAX
    ) -> Any:
        """Run one command of the agent and return its reply. Raises AgentError and DeadlineExceeded."""
        async with self.session() as session:
            return await session.execute(command, arguments, limit=limit)

    async def ping(self) -> None:
        """Make sure that the agent answers. Raises AgentError and DeadlineExceeded."""
        await self.execute("guest-ping")

    async def wait(self) -> None:
        """Wait until the agent answers, asking anew after `patience`: what came before a guest listened may be lost.

        Raises AgentError.
        """
        while True:
            with suppress(DeadlineExceeded):
                return await self.ping()

    async def info(self) -> AgentInfo:
        """What agent it is and what it can do. Raises AgentError and DeadlineExceeded."""
        reply = await self.execute("guest-info")
        commands = reply.get("supported_commands") if isinstance(reply, Mapping) else None
        names = [
            take(item, "name", str) for item in commands or () if isinstance(item, Mapping) and item.get("enabled")
        ]
        return AgentInfo(version=take(reply, "version", str), commands=frozenset(names))

    async def shut_down(self, mode: Literal["powerdown", "reboot", "halt"] = "powerdown") -> None:
        """Ask the guest to shut down. That it was asked is all that is known when this returns.

        Raises AgentError where the agent refuses or can't, DeadlineExceeded where it does not answer.
        """
        async with self.session() as session:
            await session.shut_down(mode)
