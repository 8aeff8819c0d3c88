"""Request numbers are packed as Linux packs them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmctl.ioctl.ioc import argument_size, io, ior, iow, iowr


def test_numbers_are_those_of_the_kernels_headers() -> None:
    assert io(0xAE, 0x01) == 0xAE01
    assert iow(0xAE, 0x46, 32) == 0x4020AE46
    assert ior(ord("T"), 207, 4) == 0x800454CF
    assert iowr(0xAE, 0x05, 8) == 0xC008AE05


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, (1 << 14) - 1))
def test_a_number_announces_the_size_of_its_argument(group: int, number: int, size: int) -> None:
    for pack in (iow, ior, iowr):
        assert argument_size(pack(group, number, size)) == size
    assert argument_size(io(group, number)) == 0


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, (1 << 14) - 1))
def test_directions_make_different_numbers(group: int, number: int, size: int) -> None:
    assert len({pack(group, number, size) for pack in (iow, ior, iowr)}) == 3


@pytest.mark.parametrize(("group", "number", "size"), [(256, 0, 0), (0, 256, 0), (0, 0, 1 << 14), (-1, 0, 0)])
def test_what_does_not_fit_is_refused(group: int, number: int, size: int) -> None:
    with pytest.raises(ValueError, match="no ioctl request has group"):
        iow(group, number, size)
