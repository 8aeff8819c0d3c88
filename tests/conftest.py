"""Guests that tests of several parts boot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BUILD_GUEST = Path(__file__).parents[1] / "scripts" / "build-guest"


@pytest.fixture(scope="session")
def debian_files() -> dict[str, Path]:
    """The Debian guest's files by name: ``disk.qcow2``, to be used by overlays only, ``vmlinuz`` and ``initrd.img``.

    It is built first where it was not; that takes apt, the network and a minute. Tests that use it are marked `debian`.
    """
    built = subprocess.run([sys.executable, BUILD_GUEST, "debian"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the Debian guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    return {Path(line).name: Path(line) for line in built.stdout.splitlines()}


@pytest.fixture(scope="session")
def debian_disk(debian_files: dict[str, Path]) -> Path:
    """The Debian guest's disk, to be used by overlays only."""
    return debian_files["disk.qcow2"]
