"""Agents to talk to: the fake one on this host's own files and processes, and QEMU's where it is to be had."""

from __future__ import annotations

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

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from guestbuild.deb import read_deb  # noqa: E402

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


@pytest.fixture(scope="session")
def qemu_ga_binary(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The installed one, or the one from the package that the small Linux guest was made with."""
    if installed := shutil.which("qemu-ga"):
        return installed
    package = next((SCRIPTS.parent / "machines/images/small-linux/apt/debs").glob("qemu-guest-agent_*.deb"), None)
    if package is None:
        pytest.skip("there is no qemu-ga: install qemu-guest-agent, or run scripts/build-guest")
    binary = tmp_path_factory.mktemp("qemu-ga") / "qemu-ga"
    binary.write_bytes(next(item.data for item in read_deb(package) if item.name == "usr/sbin/qemu-ga"))
    binary.chmod(0o755)
    if subprocess.run([binary, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("qemu-ga does not start here: its libraries are not installed")
    return str(binary)


@pytest.fixture
def qemu_ga(qemu_ga_binary: str, tmp_path: Path) -> Iterator[Connect]:
    """QEMU's own agent, on this host and a socket of its own."""
    path = str(tmp_path / "agent.sock")
    with socket.socket(socket.AF_UNIX) as listener, (tmp_path / "agent.log").open("wb") as log:
        # Listened on beforehand, it can be connected to at once.
        listener.bind(path)
        listener.listen(64)
        argv = [sys.executable, "-c", ACTIVATE, str(listener.fileno()), qemu_ga_binary, "-m", "unix-listen"]
        argv += ["-p", path, "-t", str(tmp_path), "-f", str(tmp_path / "agent.pid")]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[listener.fileno()])
    yield lambda: _connected(path)
    process.kill()
    process.wait()


def _connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    return client
