"""``kvmctl doctor`` as a process: what it prints where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvmctl import Survey, diagnose

ROOT = Path(__file__).parent.parent


def doctor(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the verb."""
    return subprocess.run(
        [sys.executable, "-m", "kvmctl", "doctor", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.qemu
def test_it_tells_what_it_found_and_what_auto_takes() -> None:
    ran = doctor()
    assert (ran.returncode, ran.stderr) == (0, "")
    *findings, blank, verdict = ran.stdout.splitlines()
    assert all(line.split()[0] in {"ok", "note", "warning", "problem", "→"} for line in findings)
    assert blank == ""
    assert verdict.startswith(('accel = "auto" takes KVM here: ', 'accel = "auto" takes TCG here: '))


@pytest.mark.qemu
def test_its_json_holds_everything_a_diagnosis_needs() -> None:
    ran = doctor("--json")
    record = json.loads(ran.stdout)
    assert set(record) == {"schema", "verdict", "can_run", "findings", "survey"}
    assert all(set(finding) == {"id", "level", "summary", "fix"} for finding in record["findings"])
    report = diagnose(Survey.loads(json.dumps(record["survey"])))
    assert [finding.id for finding in report.findings] == [finding["id"] for finding in record["findings"]]
    assert record["verdict"] == {"accel": report.verdict.accel, "reason": report.verdict.reason}


def test_it_fails_where_nothing_can_run() -> None:
    ran = doctor(KVMCTL_QEMU="/nowhere/qemu")
    assert (ran.returncode, ran.stderr) == (8, "")
    assert "problem  there is no executable '/nowhere/qemu', which KVMCTL_QEMU names as QEMU" in ran.stdout
    assert ran.stdout.endswith("No machine can run here until the problems above are solved.\n")
    assert json.loads(doctor("--json", KVMCTL_QEMU="/nowhere/qemu").stdout)["can_run"] is False
