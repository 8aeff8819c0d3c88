"""KVM twice: the fake that kvmctl ships, and this host's own where it can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmctl.ioctl.device import Kvm
from kvmctl.ioctl.nodes import open_failure
from kvmctl.testing.fakekvm import FakeKvm


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that tests start find kvmctl too."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))


def open_real_kvm() -> Kvm:
    """This host's KVM, or a skip that says what the host lacks."""
    try:
        return Kvm.open()
    except OSError as error:
        pytest.skip(open_failure("/dev/kvm", error)[1])


@pytest.fixture
def real_kvm() -> Iterator[Kvm]:
    with open_real_kvm() as kvm:
        yield kvm


@pytest.fixture(params=["fake", "real"])
def kvm(request: pytest.FixtureRequest) -> Iterator[Kvm]:
    """What holds for both, so that the fake is known to behave like the kernel."""
    fake = FakeKvm(msrs={0x10A: 0x2B, 0x48B: 2 << 32})
    with Kvm.open(fake.path, ioctl=fake.ioctl) if request.param == "fake" else open_real_kvm() as kvm:
        yield kvm
