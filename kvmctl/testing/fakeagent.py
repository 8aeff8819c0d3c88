"""A guest agent in this process, for tests of what talks to one: it obeys, or misbehaves on purpose.

::

    async with FakeAgent({"guest-get-host-name": lambda _: {"host-name": "web"}}) as fake:
        reply = await Agent(fake.connect).execute("guest-get-host-name")

Like QEMU's channel it serves one client at a time; the others wait in line. What it says when it obeys is what QEMU's
own agent says; a test asks both.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

Command: TypeAlias = Callable[[dict[str, Any]], object]
"""What an agent's command does: arguments in, what is returned out; raises `Refusal`."""

_STREAM_LIMIT = 64 << 20
_BLOCK = 1 << 20


class Refusal(Exception):
    """A command's error reply."""

    def __init__(self, error_class: str, description: str) -> None:
        super().__init__(description)
        self.error_class = error_class


class Channel:
    """The agent's side of one client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next line; empty when the client has hung up."""
        return await self._reader.readline()

    async def read(self, count: int) -> bytes:
        """What comes next, at most `count` bytes; empty when the client has hung up."""
        return await self._reader.read(count)

    async def say(self, data: bytes) -> None:
        """Send `data` as it is."""
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self, message: object) -> None:
        """Send `message` as a line of JSON."""
        await self.say(json.dumps(message).encode() + b"\n")


Behaviour: TypeAlias = Callable[["FakeAgent", Channel], Awaitable[None]]
"""What happens on a connection; it is closed when this returns."""


async def obey(agent: FakeAgent, channel: Channel) -> None:
    """Answer every request, as an agent should."""
    while line := await channel.request():
        if line.startswith(b"\xff"):
            await channel.reply(_error("GenericError", "JSON parse error, stray '\ufffd'"))
        await agent.answer(channel, line.lstrip(b"\xff"))


async def silent(_agent: FakeAgent, channel: Channel) -> None:
    """Read and never answer."""
    while await channel.request():
        pass


async def hang_up(_agent: FakeAgent, channel: Channel) -> None:
    """Close the connection at the first request."""
    await channel.request()


async def nonsense(_agent: FakeAgent, channel: Channel) -> None:
    """Answer every request with what is no JSON."""
    while await channel.request():
        await channel.say(b"\x00\xfe] what? {\n")


async def endless_line(_agent: FakeAgent, channel: Channel) -> None:
    """Answer the first request with a line that never ends."""
    await channel.request()
    while True:
        await channel.say(bytes(_BLOCK).replace(b"\0", b"A"))


async def endless_lines(_agent: FakeAgent, channel: Channel) -> None:
    """Answer the first request with replies to nobody, for ever."""
    await channel.request()
    while True:
        await channel.say(b'\xff{"return": 1}\n' * (_BLOCK // 15))


def after_sync(behaviour: Behaviour) -> Behaviour:
    """Answer ``guest-sync-delimited``, then misbehave."""

    async def behave(agent: FakeAgent, channel: Channel) -> None:
        line = await channel.request()
        await agent.answer(channel, line.lstrip(b"\xff"))
        await behaviour(agent, channel)

    return behave


class FakeAgent:
    """A guest agent with some `commands` besides those for saying hello, and a `behaviour` on every connection."""

    def __init__(self, commands: Mapping[str, Command] | None = None, *, behaviour: Behaviour = obey) -> None:
        self._commands: dict[str, Command] = {
            "guest-sync": lambda arguments: arguments["id"],
            "guest-sync-delimited": lambda arguments: arguments["id"],
            "guest-ping": lambda _: {},
            "guest-info": lambda _: self._info(),
            **(commands or {}),
        }
        self._behaviour = behaviour
        self._waiting: asyncio.Queue[socket.socket] = asyncio.Queue()
        self._tasks = asyncio.TaskGroup()
        self.requests: list[str] = []
        """Names of the commands asked for, in order."""

    def connect(self) -> socket.socket:
        """A client's end of a new connection, in line behind those before it."""
        ours, theirs = socket.socketpair()
        self._waiting.put_nowait(ours)
        return theirs

    async def answer(self, channel: Channel, line: bytes) -> None:
        """Answer one request."""
        try:
            request = json.loads(line)
            name, arguments = request["execute"], request.get("arguments", {})
        except (ValueError, KeyError, TypeError):
            await channel.reply(_error("GenericError", "JSON parse error"))
            return
        self.requests.append(name)
        if name == "guest-sync-delimited":
            await channel.say(b"\xff")
        await channel.reply(self._result(name, arguments))

    def _result(self, name: str, arguments: dict[str, Any]) -> dict[str, object]:
        if name not in self._commands:
            return _error("CommandNotFound", f"The command {name} has not been found")
        try:
            return {"return": self._commands[name](arguments)}
        except Refusal as refusal:
            return _error(refusal.error_class, str(refusal))

    def _info(self) -> dict[str, object]:
        commands = [{"name": name, "enabled": True, "success-response": True} for name in self._commands]
        return {"version": "7.2.22", "supported_commands": commands}

    async def _serve(self) -> None:
        while True:
            connection = await self._waiting.get()
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_STREAM_LIMIT)
            try:
                await self._behaviour(self, Channel(reader, writer))
            except ConnectionError:
                pass  # the client left; the next one's turn
            finally:
                writer.close()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._server = self._tasks.create_task(self._serve())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cancel()
        while not self._waiting.empty():
            self._waiting.get_nowait().close()
        await self._tasks.__aexit__(kind, error, trace)


def _error(error_class: str, description: str) -> dict[str, object]:
    return {"error": {"class": error_class, "desc": description}}
