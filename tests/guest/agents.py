"""Agents to talk to on this host: the fake one with real processes and files, and QEMU's own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from kvmctl.guest.agent import Connect
from kvmctl.testing.fakeagent import Channel, FakeAgent

from .local_agent import LocalCommands

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Passes on a listening socket as systemd would."""


@asynccontextmanager
async def fake_agent() -> AsyncIterator[Connect]:
    """The fake agent, running commands on this host."""
    commands = LocalCommands()
    async with FakeAgent(commands.table()) as fake:
        yield fake.connect
    commands.clear()


@asynccontextmanager
async def real_agent(binary: str, directory: Path) -> AsyncIterator[Connect]:
    """QEMU's own agent, behind a channel that works as a machine's does: one client after the other, and what the last
    one did not read is there for the next."""
    path = str(directory / "agent.sock")
    process = start(binary, path, directory)
    # One connection for all: an agent on a socket, unlike one on a port, ends when its client hangs up in mid-reply.
    reader, writer = await asyncio.open_unix_connection(path)

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    async def relay(_fake: FakeAgent, channel: Channel) -> None:
        answers = asyncio.ensure_future(pass_on(reader.read, channel.say))
        try:
            await pass_on(channel.read, send)
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)

    try:
        async with FakeAgent(behaviour=relay) as fake:
            yield fake.connect
    finally:
        writer.close()
        process.kill()
        process.wait()


def start(binary: str, path: str, directory: Path) -> subprocess.Popen[bytes]:
    """The agent's process, listening on `path`."""
    with socket.socket(socket.AF_UNIX) as listener, (directory / "agent.log").open("wb") as log:
        listener.bind(path)  # before it starts, so that it can be connected to at once
        listener.listen()
        argv = [sys.executable, "-c", ACTIVATE, str(listener.fileno()), binary, "-m", "unix-listen"]
        argv += ["-p", path, "-t", str(directory), "-f", str(directory / "agent.pid")]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()])


async def pass_on(read: Callable[[int], Awaitable[bytes]], send: Callable[[bytes], Awaitable[None]]) -> None:
    """Pass bytes on until there are no more."""
    while data := await read(65536):
        await send(data)
