"""The fake agent says what QEMU's own says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kvmctl.guest.agent import Connect
from kvmctl.testing.fakeagent import FakeAgent

from .local_agent import LocalCommands

REQUESTS = [
    b'{"execute": "guest-ping"}',
    b'{"execute": "guest-sync", "arguments": {"id": 42}}',
    b'{"execute": "guest-sync-delimited", "arguments": {"id": 42}}',
    b'\xff{"execute": "guest-sync-delimited", "arguments": {"id": 42}}',
    b'{"execute": "guest-nope"}',
    b'{"execute": "guest-exec", "arguments": {"path": "/nonexistent", "arg": []}}',
    b'{"execute": "guest-exec-status", "arguments": {"pid": 1}}',
    b'{"execute": "guest-file-read", "arguments": {"handle": 1, "count": 1}}',
    b'{"execute": "guest-file-open", "arguments": {"path": "/nonexistent", "mode": "r"}}',
]


async def ask(connect: Connect, request: bytes) -> list[bytes]:
    """What is said to `request`, up to the answer to a ping behind it."""
    reader, writer = await asyncio.open_unix_connection(sock=connect())
    writer.write(request + b'\n{"execute": "guest-sync", "arguments": {"id": 99}}\n')
    lines: list[bytes] = []
    while (line := await reader.readline()) != b'{"return": 99}\n':
        lines.append(line)
    writer.close()
    return lines


def shape(line: bytes) -> Any:
    """A reply without the wording of its error."""
    sentinel, reply = line[:1] == b"\xff", json.loads(line.lstrip(b"\xff"))
    if "error" in reply:
        reply["error"] = reply["error"]["class"]
    return sentinel, reply


@pytest.mark.parametrize("request_line", REQUESTS)
async def test_fake_and_real_agent_answer_alike(qemu_ga: Connect, request_line: bytes) -> None:
    async with FakeAgent(LocalCommands().table()) as fake:
        said = await ask(fake.connect, request_line)
    assert [shape(line) for line in said] == [shape(line) for line in await ask(qemu_ga, request_line)]
