"""A command run without an event loop is the same command: its streams, its exit code, its end.

The fake agent and QEMU's own live in the test's event loop, the command in a thread, as a process of its own would.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kvmctl.errors import AgentError, DeadlineExceeded
from kvmctl.guest.agent import Agent, Connect
from kvmctl.guest.blocking import BlockingTurn, run_streamed
from kvmctl.guest.command import End
from kvmctl.guest.poll import CommandInterrupted, CommandSignals, go
from kvmctl.guest.run import run
from kvmctl.guest.session import Session
from kvmctl.guest.turn import Turn
from kvmctl.guest.wire import SocketLine
from kvmctl.guest.words import make_mark
from kvmctl.testing.fakeagent import Channel, FakeAgent, after_sync, hang_up, obey, silent

from .local_agent import LocalCommands


class WaitingLine(SocketLine):
    """A socket, as the blocking edge has it."""

    def wait_for_turn(self, wait: Callable[[int], None]) -> None:  # type: ignore[override]
        """The other end reads when it is our turn."""


class Client:
    """A command in the guest of `connect`, in a thread."""

    def __init__(self, connect: Connect) -> None:
        loop = asyncio.get_running_loop()

        async def connected() -> WaitingLine:
            return WaitingLine(connect())  # type: ignore[arg-type]  # the fakes have sockets

        self.signals = CommandSignals()
        self.turn = BlockingTurn(lambda: asyncio.run_coroutine_threadsafe(connected(), loop).result(), self.signals)
        self.out, self.err = bytearray(), bytearray()
        self.came = asyncio.Event()
        self._set = partial(loop.call_soon_threadsafe, self.came.set)

    async def run(self, *argv: str, put: Callable[[bytes], None] | None = None) -> End | None:
        def take(data: bytes) -> None:
            self.out.extend(data)
            self._set()

        puts = (put or take, self.err.extend)
        with self.signals:
            try:
                return await asyncio.to_thread(
                    run_streamed, self.turn, argv, puts=puts, mark=make_mark(), signals=self.signals
                )
            finally:
                self.turn.give_back()


async def test_output_and_exit_code_are_those_of_the_other_edge(connect: Connect) -> None:
    script = ["sh", "-c", "seq 1 50000; seq 1 20000 >&2; exit 3"]
    client = Client(connect)
    end = await client.run(*script)
    out, err = bytearray(), bytearray()
    result = await run(Agent(connect), script, on_stdout=out.extend, on_stderr=err.extend)
    assert end is not None
    assert (end.exit_code, end.signal) == (result.exit_code, result.signal) == (3, None)
    assert (client.out, client.err) == (out, err)


async def test_a_forwarded_signal_reaches_the_command(connect: Connect) -> None:
    client = Client(connect)
    running = asyncio.ensure_future(client.run("sh", "-c", "echo ready; exec sleep 4711"))
    await client.came.wait()
    client.signals.forward(signal.SIGTERM)
    end = await running
    assert end is not None
    assert end.exit_code == 128 + signal.SIGTERM


async def test_who_is_interrupted_ends_the_command(connect: Connect, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    client = Client(connect)
    running = asyncio.ensure_future(client.run("sh", "-c", f"echo $$ >{pid}; echo ready; exec sleep 4712"))
    await client.came.wait()
    client.signals.end(signal.SIGINT)
    with pytest.raises(CommandInterrupted) as caught:
        await running
    assert caught.value.number == signal.SIGINT
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_output_that_nobody_takes_ends_the_command(connect: Connect, tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def put(_data: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await Client(connect).run("sh", "-c", f"echo $$ >{pid}; echo ready; exec sleep 4713", put=put)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_a_guest_that_can_not_stream_has_started_nothing() -> None:
    commands = LocalCommands()
    table = {name: command for name, command in commands.table().items() if not name.startswith("guest-file")}
    async with FakeAgent(table) as fake:
        assert await Client(fake.connect).run("true") is None
        assert "guest-exec" not in fake.requests


async def test_an_agent_that_hangs_up_is_an_agent_error() -> None:
    async with FakeAgent(behaviour=after_sync(hang_up)) as fake:
        with pytest.raises(AgentError, match="was closed during 'guest-file-open'"):
            await Client(fake.connect).run("true")


async def test_an_agent_that_does_not_answer_is_a_deadline_exceeded() -> None:
    async with FakeAgent(behaviour=silent) as fake:
        client = Client(fake.connect)
        with pytest.raises(DeadlineExceeded, match=r"does not answer within 0\.2 s"):
            await asyncio.to_thread(client.turn.open, patience=0.2)
        client.signals.close()


async def test_an_agent_that_does_not_answer_does_not_hold_who_is_interrupted() -> None:
    async with FakeAgent(behaviour=after_sync(silent)) as fake:
        client = Client(fake.connect)
        await asyncio.to_thread(client.turn.open, patience=10)
        running = asyncio.ensure_future(client.run("true"))
        client.signals.end(signal.SIGINT)
        with pytest.raises(CommandInterrupted):
            async with asyncio.timeout(8):
                await running


def test_what_needs_an_event_loop_is_not_run_without_one() -> None:
    async def sleeps() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="without one"):
        go(sleeps())


async def test_the_next_client_lets_the_agent_forget_what_nobody_has_asked_after() -> None:
    asked: list[object] = []

    def status(arguments: dict[str, object]) -> object:
        asked.append(arguments["pid"])
        return {"exited": True, "exitcode": 0}

    async def late(agent: FakeAgent, channel: Channel) -> None:
        """As a channel whose last client has left before the answers came."""
        await channel.say(b'{"return": {}}\n{"return": {"pid": 4711}}\n{"return": {"pid": true}}\nnonsense\n')
        await obey(agent, channel)

    async with FakeAgent({"guest-exec-status": status}, behaviour=late) as fake, Turn(Agent(fake.connect)) as turn:
        assert await turn.execute("guest-ping") == {}
    assert asked == [4711]


async def test_the_last_word_is_heard_and_not_waited_for(connect: Connect, tmp_path: Path) -> None:
    made = tmp_path / "made"
    os.mkfifo(made)
    async with Turn(Agent(connect)) as turn:
        await turn.leave([("guest-exec", {"path": "sh", "arg": ["-c", f"echo done >{made}"]})])
        assert await asyncio.to_thread(made.read_text) == "done\n"


async def test_requests_that_go_together_are_answered_in_order_and_a_refusal_is_one_of_them(connect: Connect) -> None:
    async with Agent(connect).session() as session:
        assert isinstance(session, Session)
        replies = await session.execute_all([("guest-ping", {}), ("guest-none", {}), ("guest-sync", {"id": 7})])
    assert (replies[0], replies[2]) == ({}, 7)
    assert isinstance(replies[1], AgentError)
    assert replies[1].error_class == "CommandNotFound"
