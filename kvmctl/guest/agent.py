"""A client of the QEMU guest agent, for guests that may be slow, silent or hostile.

The channel has one user at a time, and the others wait their turn. So it is held for a `Session` only, which begins by
getting in step: ``guest-sync-delimited`` with a number of its own, everything before the answer dropped, be it stale
replies to somebody who left, or noise. A reply is one line of bounded length. Each answer has a deadline of its own
(`Agent.patience`); beyond that, time is the caller's (``asyncio.timeout``).

Source: QEMU's docs/interop/qemu-ga-ref. May import errors and plan.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from kvmctl.errors import AgentError, DeadlineExceeded
from kvmctl.guest.received import LineTooLong
from kvmctl.guest.reply import find_sync_id, parse_reply, take
from kvmctl.guest.wire import Line, Wire

Connect: TypeAlias = Callable[[], socket.socket | Line]
"""Makes a connection to the agent's channel, or queues for one; raises OSError."""

PATIENCE: Final = 10.0
"""Seconds for one answer, unless the caller says otherwise."""
REPLY_MAX: Final = 4 << 20
"""Bytes of a reply, unless the caller says otherwise."""
_STALE_MAX = 64 << 20
"""Bytes that may come before the agent is in step: the longest reply somebody else may have left behind."""
_SYNC_MAX = 4096
_SENTINEL = b"\xff"
_ABSENT = "Is qemu-guest-agent installed and running in the guest? Another client may be holding its channel."
_SHUTDOWN_REFUSAL = 1.0
"""Seconds in which an agent says that it can't shut down; the one that does says nothing."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What a guest agent is: its version, and the commands it has and allows."""

    version: str
    commands: frozenset[str]


class Session:
    """One turn at the agent, in step with it. After a reply that failed to come it is good for nothing but closing."""

    def __init__(self, wire: Wire, *, patience: float | None) -> None:
        self._wire = wire
        self.patience = patience
        """Seconds for one answer."""
        self.in_step = False
        """Whether the next line will be the answer to the next request."""

    async def synchronise(self) -> None:
        """Get in step. Raises AgentError and DeadlineExceeded."""
        token = secrets.randbelow(1 << 53)
        async with (
            _deadline(self.patience, "the guest agent does not answer", hint=_ABSENT),
            _translated("guest-sync-delimited"),
        ):
            await self._wire.wait_for_turn()
            # The sentinel makes the agent forget a request that somebody left half-sent.
            await self._wire.send(_SENTINEL + _request("guest-sync-delimited", {"id": token}))
            await self._find_answer(token)
        self.in_step = True

    async def _find_answer(self, token: int) -> None:
        stale = 0
        while True:
            stale += await self._wire.skip_past(_SENTINEL, limit=_STALE_MAX - stale)
            with suppress(LineTooLong):
                line = await self._wire.read_line(limit=_SYNC_MAX)
                stale += len(line)
                if find_sync_id(line) == token:
                    return

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, limit: int = REPLY_MAX
    ) -> Any:
        """Run one command of the agent and return its reply, of at most `limit` bytes.

        Raises AgentError where the agent refuses, hangs up or answers nonsense, DeadlineExceeded where it does not
        answer.
        """
        line = await self._exchange(command, arguments, limit=limit)
        return parse_reply(line, command=command)

    async def _exchange(self, command: str, arguments: Mapping[str, object] | None, *, limit: int) -> bytes:
        if not self.in_step:
            raise AgentError(f"the guest agent can't be asked for {command!r}: an earlier answer is missing")
        self.in_step = False
        async with _deadline(self.patience, f"the guest agent did not answer {command!r}"), _translated(command):
            await self._wire.send(_request(command, arguments or {}))
            line = await self._wire.read_line(limit=limit)
        self.in_step = True
        return line

    async def shut_down(self, mode: str) -> None:
        """Ask for a shutdown, to which there is no reply unless it fails. Raises AgentError."""
        self.in_step = False
        try:
            async with asyncio.timeout(_SHUTDOWN_REFUSAL), _translated("guest-shutdown"):
                await self._wire.send(_request("guest-shutdown", {"mode": mode}))
                line = await self._wire.read_line(limit=REPLY_MAX)
        except TimeoutError:
            return
        except AgentError as error:
            if isinstance(error.__cause__, EOFError):
                return  # that was quick: the machine is gone
            raise
        parse_reply(line, command="guest-shutdown")

    def close(self) -> None:
        """Give the channel to the next."""
        self.in_step = False
        self._wire.close()


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
        try:
            connection = self._connect()
        except OSError as error:
            raise AgentError(f"the guest agent's channel can't be reached: {error.strerror}") from error
        session = Session(Wire(connection), patience=self.patience)
        try:
            await session.synchronise()
        except BaseException:
            session.close()
            raise
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


def _request(command: str, arguments: Mapping[str, object]) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


@asynccontextmanager
async def _deadline(seconds: float | None, summary: str, *, hint: str = "") -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineExceeded(f"{summary} within {seconds or 0:g} s", hint=hint) from None


@asynccontextmanager
async def _translated(command: str) -> AsyncIterator[None]:
    try:
        yield
    except LineTooLong as error:
        raise AgentError(f"the guest agent answers {command!r} with more than it may") from error
    except (EOFError, OSError) as error:
        raise AgentError(f"the guest agent's channel was closed during {command!r}") from error
