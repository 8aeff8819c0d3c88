"""Every example spec is taken by the real QEMU: the one on PATH, or $KVMCTL_QEMU (``scripts/qemus --run``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from golden import SPECS

NAMESPACE = [
    "unshare",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
]

EXPECTED = ("VNC server running on ", "has no peer")
"""What QEMU tells without anything being wrong: the port it chose, and that a card has no cable in it."""


@pytest.fixture(scope="session")
def has_namespaces() -> bool:
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.qemu
@pytest.mark.parametrize("name", SPECS)
def test_the_real_qemu_takes_the_example(name: str, tmp_path: Path, has_namespaces: bool) -> None:
    if not has_namespaces:
        pytest.skip("this host lets us make no network namespace (unshare --net)")
    script = Path(__file__).with_name("accept.py")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, str(script), str(SPECS[name]), str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    if "skip" in answer:
        pytest.skip(f"this host: {answer['skip']}")
    assert [line for line in answer["log"].splitlines() if not any(word in line for word in EXPECTED)] == []
    assert answer["status"] == "prelaunch"
