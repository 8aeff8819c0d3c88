"""The recordings of real QEMUs, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmctl.testing.qapi import Recording

RECORDINGS = {
    path.stem: Recording.parse(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "data/qemu").glob("*.json"), key=lambda path: float(path.stem))
}


@pytest.fixture(params=RECORDINGS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recording(version: str) -> Recording:
    return RECORDINGS[version]
