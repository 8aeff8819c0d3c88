"""A hundred tests, each with a machine of its own and one command in it; alone and with two workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from statistics import median

from benchmarks.measure import Row, interleave

ROOT = Path(__file__).resolve().parents[2]
SPEC = ROOT / "machines/small-linux.toml"
COUNT = 100
RUNS = 3
TESTS = f"""
import pytest

pytestmark = pytest.mark.vm(until="console:GUEST-READY")

@pytest.mark.parametrize("number", range({COUNT}))
def test_one(vm, number):
    vm.succeed("true")
"""
FIRST = """
import pytest

@pytest.mark.vm(until="console:GUEST-READY")
def test_first(vm):
    vm.succeed("true")
"""


def measure() -> list[Row]:
    if not (ROOT / "machines/images/small-linux/vmlinuz").exists():
        print("the small Linux guest is not built: scripts/build-guest", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="kvmctl-bench-") as name:
        directory = Path(name)
        (directory / "test_first.py").write_text(FIRST)
        (directory / "test_many.py").write_text(TESTS)
        run(directory, "test_first.py", count=1)  # makes the template
        alone, two = interleave(
            RUNS,
            lambda: run(directory, "test_many.py", count=COUNT),
            lambda: run(directory, "-n", "2", "test_many.py", count=COUNT),
        )
    one, both = median(alone), median(two)
    return [
        Row(f"pytest: {COUNT} tests, a fresh VM and one command each", f"{one:.1f} s", "", "", "≤ 40 s"),
        Row(f"pytest -n 2: the same {COUNT} tests, against one worker", f"{both:.1f} s", f"{one:.1f} s",
            f"{both / one:.2f}", "< 1"),
    ]  # fmt: skip


def run(directory: Path, *arguments: str, count: int) -> float:
    """The seconds that pytest says it took. Fails with its words."""
    is_installed = any(point.name == "kvmctl" for point in entry_points(group="pytest11"))
    plugin = [] if is_installed else ["-p", "kvmctl.testing.plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-q", "-p", "no:cacheprovider", "--vm-spec", SPEC, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(rf"^{count} passed in ([0-9.]+)s", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(done.stdout + done.stderr)
    return float(found[1])
