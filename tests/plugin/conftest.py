"""Runs of pytest within pytest, with machines in directories of their own; what one leaves running fails its test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from runtime.conftest import end_all

ROOT = Path(__file__).parents[2]
IS_INSTALLED = any(point.name == "kvmctl" for point in entry_points(group="pytest11"))
PLUGIN = [] if IS_INSTALLED else ["-p", "kvmctl.testing.plugin"]
"""What it takes to have the plugin: nothing, once this kvmctl is installed as it is."""
PYTEST = [sys.executable, "-m", "pytest", *PLUGIN, "-p", "no:cacheprovider"]
LOOPS = ["-o", "asyncio_default_fixture_loop_scope=function"]
"""What pytest-asyncio warns of where it is not said."""


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Path]:
    """The directories of a user who has no machines; probe replies are kept between tests, as on any host."""
    cache = pytestconfig.cache
    assert cache is not None
    for part in ("CONFIG", "STATE", "RUNTIME"):
        monkeypatch.setenv(f"KVMCTL_{part}_DIR", str(tmp_path / "kvmctl" / part.lower()))
    monkeypatch.setenv("KVMCTL_CACHE_DIR", str(cache.mkdir("kvmctl")))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path / "kvmctl"
    leaked = end_all(str(tmp_path))
    assert not leaked, f"left running: {leaked}"


Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Runs pytest, in a process of its own, on what the test has written."""

    def runs(*arguments: str) -> pytest.RunResult:
        return pytester.run(*PYTEST, *LOOPS, "-W", "error", *arguments, timeout=200)

    return runs


def running(directories: Path) -> list[str]:
    """The machines that run or have left a directory."""
    try:
        return sorted(name for name in os.listdir(directories / "runtime") if not name.startswith("."))
    except FileNotFoundError:
        return []
