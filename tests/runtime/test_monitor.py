"""The monitor and the operations on it, against a fake that refuses what a real QEMU's schema does not have."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kvmctl.errors import MonitorLost, QmpError
from kvmctl.plan.schema import Schema
from kvmctl.runtime import ops
from kvmctl.runtime.events import State
from kvmctl.runtime.monitor import Monitor
from kvmctl.testing.fakeqmp import FakeQmp, Reply
from kvmctl.testing.qapi import Recording

RECORDINGS = sorted((Path(__file__).parent.parent / "data/qemu").glob("*.json"))


@pytest.fixture(params=RECORDINGS, ids=lambda path: path.stem, scope="module")
def schema(request: pytest.FixtureRequest) -> Schema:
    return Recording.parse(request.param.read_text()).schema


@asynccontextmanager
async def connected(replies: Mapping[str, Any], *, schema: Schema | None = None) -> AsyncIterator[Monitor]:
    async with FakeQmp(replies, schema=schema) as fake, await Monitor.connect(fake.client, name="web") as monitor:
        yield monitor


async def test_a_qemu_that_hangs_up_once_it_has_answered_is_a_lost_monitor() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        version = {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}
        for message in ({"QMP": {"version": version, "capabilities": []}}, {"return": {}}):
            theirs.sendall(json.dumps(message).encode() + b"\r\n")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(MonitorLost):
            await Monitor.connect(ours, name="web")
    assert ours.fileno() == -1


async def test_status_is_what_qemu_says(schema: Schema) -> None:
    reply = {"status": "paused", "running": False, "singlestep": False}
    known = schema.members(schema.entries["query-status"]["ret-type"], reply)  # singlestep went with QEMU 9.0
    status = {key: value for key, value in reply.items() if key in known}
    async with connected({"query-status": status}, schema=schema) as monitor:
        assert await ops.query_status(monitor) is State.PAUSED


async def test_every_operation_is_one_that_qemu_has(schema: Schema) -> None:
    replies = {
        "cont": {},
        "stop": {},
        "system_reset": {},
        "system_powerdown": {},
        "quit": {},
        "balloon": {},
        "screendump": {},
        "query-vnc": {"enabled": True, "family": "unix", "service": "/run/vnc.sock", "host": ""},
        "query-memory-size-summary": {"base-memory": 1 << 28, "plugged-memory": 1 << 27},
        "query-balloon": {"actual": 1 << 28},
        "qom-get": {"stats": {"stat-free-memory": 1 << 20, "stat-swap-in": 2**64 - 1}, "last-update": 7},
        "human-monitor-command": "",
    }
    async with connected(replies, schema=schema) as monitor:
        for operation in (ops.cont, ops.pause, ops.reset, ops.press_power_button, ops.quit_qemu):
            await operation(monitor)
        await ops.set_balloon(monitor, 1 << 28)
        assert await ops.query_memory(monitor) == 3 << 27
        await ops.screendump(monitor, "/tmp/picture.png")
        assert await ops.query_vnc(monitor) == "/run/vnc.sock"
        assert await ops.query_balloon(monitor) == ops.Balloon(1 << 28, {"stat-free-memory": 1 << 20}, 7)
        assert await ops.query_forwards(monitor) == []


async def test_a_refusal_carries_qemus_words_and_its_class() -> None:
    async with connected({"balloon": Reply(error="No balloon device has been activated")}) as monitor:
        with pytest.raises(QmpError, match="No balloon device") as caught:
            await ops.set_balloon(monitor, 1 << 28)
    assert caught.value.error_class == "GenericError"


async def test_an_event_before_the_reply_is_not_taken_for_it() -> None:
    async with connected({"stop": Reply(events=["STOP", "STOP"]), "query-status": {"status": "paused"}}) as monitor:
        await ops.pause(monitor)
        assert await ops.query_status(monitor) is State.PAUSED


async def test_a_reply_of_megabytes_is_whole() -> None:
    reply = {"return": ["x" * 100] * 40_000}
    async with connected({"query-qmp-schema": reply}) as monitor:
        assert await monitor.execute("query-qmp-schema") == reply


async def test_an_event_nobody_has_heard_of_is_passed_over() -> None:
    async with connected({"stop": Reply(events=["KVMCTL_TEST", "KVMCTL_TEST"])}) as monitor:
        assert await monitor.execute("stop") == {}


async def test_a_refusal_leaves_the_monitor_open_and_a_hang_up_does_not() -> None:
    async with connected({"quit": Reply(hangs_up=True), "cont": {}}) as monitor:
        with pytest.raises(QmpError):
            await monitor.execute("no-such-command")
        assert monitor.is_open
        with pytest.raises(MonitorLost):
            await ops.quit_qemu(monitor)
        with pytest.raises(MonitorLost):
            await ops.cont(monitor)
        assert not monitor.is_open


async def test_what_is_no_monitor_is_lost_at_once() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"220 mail.example ESMTP\r\n")
        with pytest.raises(MonitorLost, match="'web' closed its monitor"):
            await Monitor.connect(ours, name="web")


async def test_a_monitor_that_is_closed_leaves_no_logger_and_no_task() -> None:
    loggers = len(logging.Logger.manager.loggerDict)
    for index in range(3):
        async with FakeQmp({}) as fake, await Monitor.connect(fake.client, name=f"web-{index}"):
            pass
    assert len(logging.Logger.manager.loggerDict) == loggers
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_hanging_up_in_the_middle_of_a_reply_is_said() -> None:
    async with connected({"query-status": Reply(hangs_up=True)}) as monitor:
        with pytest.raises(MonitorLost, match="during 'query-status'"):
            await ops.query_status(monitor)


async def test_hanging_up_before_the_greeting_is_said() -> None:
    async with FakeQmp({"qmp_capabilities": Reply(hangs_up=True)}) as fake:
        with pytest.raises(MonitorLost, match="'web' closed its monitor"):
            await Monitor.connect(fake.client, name="web")


@pytest.mark.parametrize("fake", [FakeQmp({}, greets=False), FakeQmp({"qmp_capabilities": Reply(is_silent=True)})])
async def test_a_monitor_that_says_nothing_ends_at_the_callers_deadline(fake: FakeQmp) -> None:
    async with fake:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await Monitor.connect(fake.client, name="web")


async def test_commands_at_once_get_each_its_own_reply() -> None:
    replies = {f"query-{index}": {"is": index} for index in range(50)}
    async with connected(replies) as monitor:
        found = await asyncio.gather(*(monitor.execute(command) for command in replies))
    assert found == list(replies.values())


def test_forwards_are_read_from_qemus_table() -> None:
    table = (
        "Hub -1 (net0):\r\n"
        "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n"
        "  TCP[HOST_FORWARD]  14       127.0.0.1 40001       10.0.2.15    22     0     0\r\n"
        "  UDP[HOST_FORWARD]  15               *  5353       10.0.2.15    53     0     0\r\n"
        "  TCP[ESTABLISHED]   16       127.0.0.1 40001       10.0.2.15    22     0     0\r\n"
    )
    assert ops.parse_usernet(table) == ["tcp:127.0.0.1:40001->10.0.2.15:22", "udp:*:5353->10.0.2.15:53"]
