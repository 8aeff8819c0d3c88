"""scripts/quickstart shows a machine's life from start to end, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "quickstart"

pytestmark = [
    pytest.mark.linux,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed"),
    pytest.mark.skipif(not (ROOT / ".venv/bin/kvmctl").exists(), reason="there is no .venv: run scripts/setup"),
    pytest.mark.skipif(
        not (ROOT / "machines/images/small-linux/vmlinuz").exists(),
        reason="there is no small Linux guest: run scripts/build-guest",
    ),
]


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where the script makes what it needs; empty at the end, and nobody works in it any more."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    yield directory
    assert list(directory.iterdir()) == []
    here = [process for process in psutil.process_iter(["cmdline"]) if str(directory) in str(process.info["cmdline"])]
    assert here == []


def start(scratch: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch), **environment},
        start_new_session=True,
    )


def test_quickstart_goes_through_and_says_how_long_each_step_took(scratch: Path) -> None:
    process = start(scratch)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "GUEST-READY" in output
    assert '"status": "running"' in output
    assert re.search(r"^Linux small-linux \S+", output, re.MULTILINE)
    assert re.search(r"^actual +1\d\d MiB", output, re.MULTILINE)
    assert "guest-shutdown" in output
    table = output.splitlines()[-11:]
    assert all(re.fullmatch(r"\w.{43} +\d+\.\d\d s", line) for line in table), table


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_quickstart_leaves_nothing_running(scratch: Path, number: signal.Signals, code: int) -> None:
    seen = ""
    with start(scratch) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen += line
            if "on kernel" in line:
                os.killpg(process.pid, number)  # as the terminal and a supervisor do
    assert process.returncode == code, seen
    assert f"quickstart: failed (exit code {code}) at: Watch it boot" in seen


def test_step_that_fails_is_named(scratch: Path) -> None:
    process = start(scratch, KVMCTL_QEMU="/no/such/qemu")
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "/no/such/qemu" in output
    assert f"quickstart: failed (exit code {process.returncode}) at: " in output.splitlines()[-1]
