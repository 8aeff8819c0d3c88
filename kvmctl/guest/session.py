"""One turn at the guest agent, whatever carries its bytes. No I/O, and no asyncio: a `Wire` is either edge.

Source: QEMU's docs/interop/qemu-ga-ref. May import errors.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Protocol, TypeAlias

from kvmctl.errors import AgentError, DeadlineExceeded
from kvmctl.guest.received import LineTooLong, TimeIsUp
from kvmctl.guest.reply import find_sync_id, parse_reply, take

Request: TypeAlias = tuple[str, Mapping[str, object]]
"""A command of the agent, and its arguments."""

PATIENCE: Final = 10.0
"""Seconds for one answer, unless the caller says otherwise."""
REPLY_MAX: Final = 4 << 20
"""Bytes of a reply, unless the caller says otherwise."""
_STALE_MAX = 64 << 20
"""Bytes that may come before the agent is in step: the longest reply somebody else may have left behind."""
_SYNC_MAX = 4096
_STALE_LINES = 16
"""Stale answers that are looked at."""
_SENTINEL = b"\xff"
_ABSENT = "Is qemu-guest-agent installed and running in the guest? Another client may be holding its channel."
_SHUTDOWN_REFUSAL = 1.0
"""Seconds in which an agent says that it can't shut down; the one that does says nothing."""


class Wire(Protocol):
    """A connection to the agent's channel. What is awaited raises EOFError and OSError."""

    def within(self, seconds: float | None) -> AbstractAsyncContextManager[None]:
        """Give what is awaited in this context `seconds`. Raises TimeIsUp."""

    @property
    def skipped(self) -> bytes:
        """The end of what was dropped on the way to a mark."""

    async def wait_for_turn(self) -> None:
        """Wait until the channel is ours."""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""

    async def read_line(self, *, limit: int) -> bytes:
        """The next line without its end. Raises LineTooLong."""

    async def skip_past(self, mark: bytes, *, limit: int) -> int:
        """Drop everything up to and with the next `mark`; returns how much. Raises LineTooLong."""

    def close(self) -> None:
        """Hang up."""


class Session:
    """One turn at the agent, in step with it. After a reply that failed to come it is good for nothing but closing."""

    def __init__(self, wire: Wire, *, patience: float | None) -> None:
        self._wire = wire
        self.patience = patience
        """Seconds for one answer."""
        self.in_step = False
        """Whether the next line will be the answer to the next request."""
        self._orphans: list[int] = []
        """Processes that were started for somebody who did not wait for the answer. The agent forgets how they ended
        when it is asked, and nobody else will: that goes with the next question."""

    async def synchronise(self) -> None:
        """Get in step. Raises AgentError and DeadlineExceeded."""
        token = int.from_bytes(os.urandom(6), "big")
        async with self._answering("guest-sync-delimited", "the guest agent does not answer", hint=_ABSENT):
            await self._wire.wait_for_turn()
            # The sentinel makes the agent forget a request that somebody left half-sent.
            await self._wire.send(_SENTINEL + _encode("guest-sync-delimited", {"id": token}))
            await self._find_answer(token)
        self.in_step = True
        self._orphans = _find_pids(self._wire.skipped)

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
        (reply,) = await self.execute_all([(command, arguments or {})], limit=limit)
        if isinstance(reply, AgentError):
            raise reply
        return reply

    async def execute_all(self, requests: Sequence[Request], *, limit: int = REPLY_MAX) -> list[Any]:
        """Run commands one after the other, all of them sent at once; a refusal is an AgentError in its reply's place.

        Raises AgentError where the agent hangs up or answers nonsense, DeadlineExceeded where it does not answer.
        """
        self._begin(requests[0][0])
        beside: list[Request] = [("guest-exec-status", {"pid": pid}) for pid in self._orphans]
        self._orphans = []
        asked = [*beside, *requests]
        lines = []
        for number, (command, _) in enumerate(asked):
            async with self._answering(command, f"the guest agent did not answer {command!r}"):
                if number == 0:
                    await self._wire.send(b"".join(_encode(*request) for request in asked))
                lines.append(await self._wire.read_line(limit=limit))
        self.in_step = True
        replies = [_read_reply(line, command) for line, (command, _) in zip(lines, asked, strict=True)]
        return replies[len(beside) :]

    def _begin(self, command: str) -> None:
        if not self.in_step:
            raise AgentError(f"the guest agent can't be asked for {command!r}: an earlier answer is missing")
        self.in_step = False

    async def leave(self, requests: Sequence[Request]) -> None:
        """Ask for what is done whether somebody waits for the answers or not: nobody does, and this is the last word.

        Raises AgentError and DeadlineExceeded.
        """
        self._begin(requests[0][0])
        async with self._answering(requests[0][0], "the guest agent does not listen"):
            await self._wire.send(b"".join(_encode(*request) for request in requests))

    async def shut_down(self, mode: str) -> None:
        """Ask for a shutdown, to which there is no reply unless it fails. Raises AgentError."""
        self.in_step = False
        try:
            async with self._wire.within(_SHUTDOWN_REFUSAL):
                with _translated("guest-shutdown"):
                    await self._wire.send(_encode("guest-shutdown", {"mode": mode}))
                    line = await self._wire.read_line(limit=REPLY_MAX)
        except TimeIsUp:
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

    @asynccontextmanager
    async def _answering(self, command: str, summary: str, *, hint: str = "") -> AsyncIterator[None]:
        try:
            async with self._wire.within(self.patience):
                with _translated(command):
                    yield
        except TimeIsUp:
            raise DeadlineExceeded(f"{summary} within {self.patience or 0:g} s", hint=hint) from None


async def open_session(connect: Callable[[], Wire], *, patience: float | None) -> Session:
    """A session, in step, over the connection that `connect` makes; the caller closes it.

    Raises AgentError and DeadlineExceeded.
    """
    try:
        wire = connect()
    except OSError as error:
        raise AgentError(f"the guest agent's channel can't be reached: {error.strerror}") from error
    session = Session(wire, patience=patience)
    try:
        await session.synchronise()
    except BaseException:
        session.close()
        raise
    return session


def _encode(command: str, arguments: Mapping[str, object]) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def _find_pids(stale: bytes) -> list[int]:
    """The processes in answers to ``guest-exec`` that nobody has read."""
    found = []
    for line in stale.split(b"\n")[-_STALE_LINES:]:
        with suppress(AgentError):
            found.append(take(parse_reply(line, command="guest-exec"), "pid", int))
    return found


def _read_reply(line: bytes, command: str) -> Any:
    try:
        return parse_reply(line, command=command)
    except AgentError as error:
        if not error.error_class:
            raise
        return error


@contextmanager
def _translated(command: str) -> Iterator[None]:
    try:
        yield
    except LineTooLong as error:
        raise AgentError(f"the guest agent answers {command!r} with more than it may") from error
    except (EOFError, OSError) as error:
        raise AgentError(f"the guest agent's channel was closed during {command!r}") from error
