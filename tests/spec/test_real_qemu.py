from __future__ import annotations

import shutil
from pathlib import Path

import factory
import pytest
from qemu_process import running

from kvmctl.plan.paths import MachinePaths

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="this host has no qemu-system-x86_64"),
]


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    run, state = tmp_path / "run", tmp_path / "state"
    run.mkdir()
    state.mkdir()
    return MachinePaths("web", str(run), str(state))


@pytest.mark.parametrize("kind", ["q35", "pc", "microvm"])
def test_the_smallest_machine_starts_without_a_complaint(kind: str, paths: MachinePaths) -> None:
    with running(factory.plan(f"machine = '{kind}'\nmemory = '64MiB'", paths=paths)) as qemu:
        assert qemu.command("query-status")["status"] == "prelaunch"
        assert qemu.log.read_text() == ""
