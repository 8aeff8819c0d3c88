"""A QEMU's monitor of your choosing, on a real socket, for tests of what talks to it.

::

    async with FakeQmp({"query-status": {"status": "running"}}, schema=schema) as fake:
        monitor = await Monitor.connect(fake.client, name="web")

It is strict: a command that nobody scripted is CommandNotFound, and with the recorded schema of a real QEMU so is one
that this QEMU does not have or an argument its command does not take, and the script may not return what it would not.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from kvmctl.plan.schema import Schema
from kvmctl.testing.qapi import check_command, check_reply

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}, "capabilities": ["oob"]}}


@dataclass(frozen=True, slots=True)
class Reply:
    """What happens on a command: `events` are sent, then `value` is returned, or `error` is, or nothing ever is."""

    value: Any = field(default_factory=dict)
    error: str = ""
    events: Sequence[str] = ()
    hangs_up: bool = False
    """The connection is closed in the middle of the reply."""
    is_silent: bool = False


class FakeQmp:
    """One monitor with one client, `client`. `seen` holds the commands that came, with their arguments."""

    def __init__(self, replies: Mapping[str, Any], *, schema: Schema | None = None, greets: bool = True) -> None:
        self.client, self._server = socket.socketpair()
        self.seen: list[tuple[str, Mapping[str, Any]]] = []
        self._replies = {"qmp_capabilities": Reply(), **replies}
        self._schema = schema
        self._greets = greets
        self._task: asyncio.Task[None] | None = None

    async def _serve(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._server)
        try:
            if self._greets:
                self._send(writer, GREETING)
            async for request in _requests(reader):
                if not self._answer(writer, request):
                    return
        finally:
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, request: Mapping[str, Any]) -> bool:
        """Answer one command; False where that ends the connection."""
        command, arguments = request["execute"], request.get("arguments", {})
        self.seen.append((command, arguments))
        reply = self._find_reply(command, arguments)
        for name in reply.events:
            self._send(writer, {"event": name, "timestamp": {"seconds": 1, "microseconds": 0}})
        if reply.hangs_up:
            writer.write(b'{"return": {"half')
            return False
        if reply.is_silent:
            return True
        outcome = {"error": {"class": "GenericError", "desc": reply.error}} if reply.error else {"return": reply.value}
        if self._schema is not None and not reply.error:
            problems = check_reply(self._schema, command, reply.value)
            assert not problems, problems  # noqa: S101  # the script of a test, which must not lie about QEMU
        self._send(writer, {**outcome, "id": request.get("id")})
        return True

    def _find_reply(self, command: str, arguments: Mapping[str, Any]) -> Reply:
        if problem := self._refusal(command, arguments):
            return Reply(error=problem)
        found = self._replies[command]
        return found if isinstance(found, Reply) else Reply(found)

    def _refusal(self, command: str, arguments: Mapping[str, Any]) -> str:
        if self._schema is not None and (problems := check_command(self._schema, command, arguments)):
            return "; ".join(problems)
        return "" if command in self._replies else f"The command {command} has not been found"

    @staticmethod
    def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
        writer.write(json.dumps(message).encode() + b"\r\n")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self.client.close()
        self._server.close()


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[Mapping[str, Any]]:
    """The JSON objects of a stream, which nothing need separate: QMP clients may leave out the newline."""
    decoder, text = json.JSONDecoder(), ""
    while data := await reader.read(65536):
        text = (text + data.decode()).lstrip()
        while text:
            try:
                request, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:].lstrip()
            yield request
