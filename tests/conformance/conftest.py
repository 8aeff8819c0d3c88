"""The recordings of real QEMUs, one after the other."""

from __future__ import annotations

import pytest
from golden import RECORDINGS

from kvmctl.testing.qapi import Recording


@pytest.fixture(params=RECORDINGS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recording(version: str) -> Recording:
    return RECORDINGS[version]
