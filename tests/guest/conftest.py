"""Agents to talk to: the fake one on this host's own files and processes, and QEMU's where it is to be had."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvmctl.guest.agent import Agent, Connect
from kvmctl.testing.fakeagent import FakeAgent

from .local_agent import LocalCommands

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Passes on a listening socket as systemd would."""


@pytest.fixture(params=["fake", "qemu-ga"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """A way to an agent that runs its commands on this host."""
    if request.param == "qemu-ga":
        yield request.getfixturevalue("qemu_ga")
        return
    commands = LocalCommands()
    async with FakeAgent(commands.table()) as fake:
        yield fake.connect
    commands.clear()


@pytest.fixture
def agent(connect: Connect) -> Agent:
    return Agent(connect)


@pytest.fixture
def qemu_ga(tmp_path: Path) -> Iterator[Connect]:
    """QEMU's own agent, on this host and a socket of its own."""
    binary = os.environ.get("KVMCTL_TEST_QEMU_GA") or shutil.which("qemu-ga")
    if not binary:
        pytest.skip("qemu-ga is not installed (package qemu-guest-agent, or its path in KVMCTL_TEST_QEMU_GA)")
    path = str(tmp_path / "agent.sock")
    with socket.socket(socket.AF_UNIX) as listener, (tmp_path / "agent.log").open("wb") as log:
        # Listened on beforehand, it can be connected to at once.
        listener.bind(path)
        listener.listen(64)
        argv = [sys.executable, "-c", ACTIVATE, str(listener.fileno()), binary, "-m", "unix-listen"]
        argv += ["-p", path, "-t", str(tmp_path), "-f", str(tmp_path / "agent.pid")]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()])
    yield lambda: _connected(path)
    process.kill()
    process.wait()


def _connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client
