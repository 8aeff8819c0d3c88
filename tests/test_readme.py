"""The README's three uses, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from kvmctl import AptError

ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"),
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def guest() -> None:
    built = subprocess.run(
        [sys.executable, ROOT / "scripts/build-guest", "-o", ROOT / "machines/images/small-linux"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a user who has no machines, and ``kvmctl`` on the PATH."""
    program = tmp_path / "bin" / "kvmctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kvmctl "$@"\n')
    program.chmod(0o755)
    ours = {f"KVMCTL_{part}_DIR": str(tmp_path / part.lower()) for part in ("CONFIG", "STATE", "RUNTIME", "CACHE")}
    return os.environ | ours | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.split()[1])
def test_commands_do_what_is_said(block: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euxc", block],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    left = subprocess.run(["kvmctl", "list", "--all", "--quiet"], env=environment, capture_output=True, check=True)
    assert left.stdout == b""


@pytest.mark.parametrize("block", blocks("python"), ids=["harness", "templates"])
def test_the_harness_is_a_test_that_passes(block: str, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_harness.py").write_text(block)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--rootdir",
            tmp_path,
            "-o",
            "asyncio_mode=auto",
            tmp_path / "test_harness.py",
        ],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{block.count('def test_')} passed" in done.stdout


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("block", blocks("bash"), ids=["newcomer"])
def test_a_newcomer_gets_to_a_green_test(block: str, environment: dict[str, str], tmp_path: Path) -> None:
    first, commands = block.split("\n", 1)
    assert first == "pip install kvmctl pytest"  # which it is
    pytest_program = tmp_path / "bin" / "pytest"
    pytest_program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pytest "$@"\n')
    pytest_program.chmod(0o755)
    is_installed = any(point.name == "kvmctl" for point in entry_points(group="pytest11"))
    plugin = {} if is_installed else {"PYTEST_ADDOPTS": "-p kvmctl.testing.plugin"}
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        ["bash", "-euxc", commands],
        cwd=tmp_path / "work",
        env=environment | plugin,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode == AptError.exit_code and "kvmctl:" in done.stderr:
        pytest.skip(f"no Debian can be built here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
