"""The agent client keeps its head, whatever the agent does."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc

import pytest

from kvmctl.errors import AgentError, DeadlineExceeded
from kvmctl.guest.agent import Agent
from kvmctl.guest.session import REPLY_MAX
from kvmctl.testing.fakeagent import (
    Behaviour,
    Channel,
    FakeAgent,
    Refusal,
    after_sync,
    endless_line,
    endless_lines,
    hang_up,
    nonsense,
    obey,
    silent,
)

SOON = 0.2
"""Seconds, for deadlines that are meant to pass."""


async def test_ping_info_and_commands_are_answered() -> None:
    async with FakeAgent({"guest-get-host-name": lambda _: {"host-name": "web"}}) as fake:
        agent = Agent(fake.connect)
        await agent.ping()
        info = await agent.info()
        assert info.version == "7.2.22"
        assert {"guest-ping", "guest-get-host-name"} <= info.commands
        assert await agent.execute("guest-get-host-name") == {"host-name": "web"}


async def test_arguments_reach_the_agent_as_they_are() -> None:
    async with FakeAgent({"guest-echo": dict}) as fake:
        arguments = {"text": 'a "quoted"\nline, ünïcode', "list": [1, None, True]}
        assert await Agent(fake.connect).execute("guest-echo", arguments) == arguments


async def test_a_refusal_is_an_agent_error_with_its_class_and_leaves_the_session_usable() -> None:
    def refuse(_: dict[str, object]) -> object:
        raise Refusal("GenericError", "no \x1b[31mway\x1b[0m")

    async with FakeAgent({"guest-file-open": refuse}) as fake, Agent(fake.connect).session() as session:
        with pytest.raises(AgentError, match="refused 'guest-file-open': no") as caught:
            await session.execute("guest-file-open")
        assert caught.value.error_class == "GenericError"
        assert "\x1b" not in str(caught.value), "a guest's words don't drive the terminal"
        with pytest.raises(AgentError, match="has not been found") as caught:
            await session.execute("guest-nope")
        assert caught.value.error_class == "CommandNotFound"
        await session.execute("guest-ping")


async def test_stale_replies_and_noise_before_the_sync_are_dropped() -> None:
    async def late(agent: FakeAgent, channel: Channel) -> None:
        request = await channel.request()
        await channel.say(b'{"return": {"pid": 7}}\n\xff{"return": 99}\n\x80\x00noise\xff\xff')
        await channel.say(b"\xff" + b"x" * 100_000 + b"\n\xff[[[[\n\xff{}\n")
        await agent.answer(channel, request.lstrip(b"\xff"))
        await obey(agent, channel)

    async with FakeAgent(behaviour=late) as fake:
        await Agent(fake.connect).ping()


async def test_clients_take_turns_and_nobody_gets_anothers_reply() -> None:
    async with FakeAgent({"guest-echo": lambda arguments: arguments["n"]}) as fake:
        agent = Agent(fake.connect)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(agent.execute("guest-echo", {"n": n})) for n in range(50)]
        assert [task.result() for task in asked] == list(range(50))


async def test_client_that_leaves_mid_reply_does_not_confuse_the_next() -> None:
    async with FakeAgent() as fake:
        agent = Agent(fake.connect)
        rude = fake.connect()
        rude.sendall(b'\xff{"execute": "guest-info"}\n{"execute": "guest-pi')
        rude.close()
        await agent.ping()


async def test_silent_agent_is_a_deadline_exceeded_that_says_what_to_check() -> None:
    async with FakeAgent(behaviour=silent) as fake:
        with pytest.raises(DeadlineExceeded, match=r"does not answer within 0.2 s") as caught:
            await Agent(fake.connect, patience=SOON).ping()
        assert "qemu-guest-agent" in caught.value.hint


async def test_agent_that_falls_silent_is_a_deadline_exceeded_that_names_the_command() -> None:
    async with FakeAgent(behaviour=after_sync(silent)) as fake:
        with pytest.raises(DeadlineExceeded, match="did not answer 'guest-ping' within"):
            await Agent(fake.connect, patience=SOON).ping()


async def test_the_callers_own_deadline_passes_through_as_it_is() -> None:
    async with FakeAgent(behaviour=silent) as fake:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SOON):
                await Agent(fake.connect, patience=None).ping()


@pytest.mark.parametrize("behaviour", [hang_up, after_sync(hang_up)])
async def test_agent_that_hangs_up_is_an_agent_error(behaviour: Behaviour) -> None:
    async with FakeAgent(behaviour=behaviour) as fake:
        with pytest.raises(AgentError, match="channel was closed during"):
            await Agent(fake.connect).ping()


async def test_agent_that_hangs_up_in_mid_reply_is_an_agent_error() -> None:
    async def half(_agent: FakeAgent, channel: Channel) -> None:
        await channel.request()
        await channel.say(b'{"return": ')

    async with FakeAgent(behaviour=after_sync(half)) as fake:
        with pytest.raises(AgentError, match="channel was closed during 'guest-ping'"):
            await Agent(fake.connect).ping()


@pytest.mark.parametrize(
    "reply",
    [
        b"\x00\xfe] what? {",
        b"",
        b"17",
        b"null",
        b"[]",
        b"{}",
        b'{"error": "no"}',
        b'{"error": {"class": 1, "desc": 2}}',
        b"[" * 100_000,
        b"1" * 10_000,
        b'{"return": "\xff"}',
    ],
)
async def test_nonsense_is_an_agent_error_that_quotes_it(reply: bytes) -> None:
    async def answer(_agent: FakeAgent, channel: Channel) -> None:
        await channel.request()
        await channel.say(reply + b"\n")
        await channel.request()

    async with FakeAgent(behaviour=after_sync(answer)) as fake:
        with pytest.raises(AgentError, match="answered 'guest-ping' with nonsense") as caught:
            await Agent(fake.connect).ping()
        assert len(caught.value.detail) < 500


async def test_nonsense_only_is_a_deadline_exceeded() -> None:
    async with FakeAgent(behaviour=nonsense) as fake:
        with pytest.raises(DeadlineExceeded):
            await Agent(fake.connect, patience=SOON).ping()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (endless_line, "with more than it may|does not answer"),
        (endless_lines, "with more than it may|does not answer"),
        (after_sync(endless_line), "with more than it may"),
        (after_sync(endless_lines), "with nonsense"),
    ],
)
async def test_flood_is_cut_off_and_memory_stays_bounded(behaviour: Behaviour, message: str) -> None:
    async with FakeAgent(behaviour=behaviour) as fake:
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            with pytest.raises((AgentError, DeadlineExceeded), match=message):
                await Agent(fake.connect, patience=0.5).execute("guest-info")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak - before < 4 * REPLY_MAX


async def test_reply_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    async with FakeAgent({"guest-many": lambda _: [0] * 300_000}) as fake:
        with pytest.raises(AgentError, match="nonsense"):
            await Agent(fake.connect).execute("guest-many")


async def test_no_channel_is_an_agent_error() -> None:
    def refuse() -> socket.socket:
        raise ConnectionRefusedError(111, "Connection refused")

    with pytest.raises(AgentError, match="can't be reached: Connection refused"):
        await Agent(refuse).ping()


async def test_session_is_of_no_use_after_a_missing_answer() -> None:
    async with FakeAgent(behaviour=after_sync(silent)) as fake, Agent(fake.connect, patience=SOON).session() as session:
        with pytest.raises(DeadlineExceeded):
            await session.execute("guest-ping")
        with pytest.raises(AgentError, match="an earlier answer is missing"):
            await session.execute("guest-ping")


async def test_connections_are_closed_whatever_happened() -> None:
    connections: list[socket.socket] = []

    async with FakeAgent(behaviour=after_sync(silent)) as fake:

        def connect() -> socket.socket:
            connections.append(fake.connect())
            return connections[-1]

        with pytest.raises(DeadlineExceeded):
            await Agent(connect, patience=SOON).ping()
        task = asyncio.ensure_future(Agent(connect).ping())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [connection.fileno() for connection in connections] == [-1, -1]


async def test_shut_down_returns_once_the_machine_is_gone() -> None:
    async with FakeAgent(behaviour=after_sync(hang_up)) as fake:
        await Agent(fake.connect).shut_down()


async def test_shut_down_returns_though_the_agent_says_nothing() -> None:
    asked: list[object] = []

    async def note(_agent: FakeAgent, channel: Channel) -> None:
        asked.append(json.loads(await channel.request()))
        await channel.request()

    async with FakeAgent(behaviour=after_sync(note)) as fake:
        await Agent(fake.connect).shut_down("reboot")
    assert asked == [{"execute": "guest-shutdown", "arguments": {"mode": "reboot"}}]


async def test_shut_down_that_the_agent_can_not_do_is_an_agent_error() -> None:
    async with FakeAgent() as fake:
        with pytest.raises(AgentError, match="refused 'guest-shutdown'"):
            await Agent(fake.connect).shut_down()


@pytest.mark.parametrize("reply", [{}, {"version": 3}, [], None, {"supported_commands": []}])
async def test_info_that_is_none_is_an_agent_error(reply: object) -> None:
    async with FakeAgent({"guest-info": lambda _: reply}) as fake:
        with pytest.raises(AgentError, match="has no 'version' of type str"):
            await Agent(fake.connect).info()
