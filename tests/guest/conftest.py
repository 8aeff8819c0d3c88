"""Agents to talk to, the fake one and QEMU's where it is to be had."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvmctl.guest.agent import Agent, Connect
from kvmctl.image.packages.deb import read_deb

from .agents import fake_agent, real_agent

IMAGES = Path(__file__).parents[2] / "machines/images"


@pytest.fixture(params=["fake", "qemu-ga"])
async def connect(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Connect]:
    """A way to an agent that runs its commands on this host."""
    is_real = request.param == "qemu-ga"
    agent = real_agent(request.getfixturevalue("qemu_ga_binary"), tmp_path) if is_real else fake_agent()
    async with agent as way:
        yield way


@pytest.fixture
def agent(connect: Connect) -> Agent:
    return Agent(connect)


@pytest.fixture
async def qemu_ga(qemu_ga_binary: str, tmp_path: Path) -> AsyncIterator[Connect]:
    """A way to QEMU's own agent."""
    async with real_agent(qemu_ga_binary, tmp_path) as way:
        yield way


@pytest.fixture(scope="session")
def qemu_ga_binary(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The installed one, or the one from the package that the small Linux guest was made with."""
    if installed := shutil.which("qemu-ga"):
        return installed
    package = next((IMAGES / "small-linux/apt/debs").glob("qemu-guest-agent_*.deb"), None)
    if package is None:
        pytest.skip("there is no qemu-ga: install qemu-guest-agent, or run scripts/build-guest")
    binary = tmp_path_factory.mktemp("qemu-ga") / "qemu-ga"
    binary.write_bytes(next(item.data for item in read_deb(package) if item.name == "usr/sbin/qemu-ga"))
    binary.chmod(0o755)
    if subprocess.run([binary, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("qemu-ga does not start here: its libraries are not installed")
    return str(binary)
