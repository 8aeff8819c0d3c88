"""What stands for the kernel in forks: made of kernels that it can be made of, in machines that have the room."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kvmctl.guest.reload import PROGRAM, reload

SECTORS = 3
SETUP = (SECTORS + 1) * 512
MEMORY = 256 << 20


def kernel(
    *, version: int = 0x20F, flags: int = 1, entry: int = 0x100000, taken: int = 32 << 20, size: int = 5
) -> bytes:
    """A bzImage as far as its header tells, with `size` bytes of a kernel in it."""
    image = bytearray(SETUP) + b"\xaa" * size
    image[0x1F1], image[0x202:0x206], image[0x211] = SECTORS, b"HdrS", flags
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<I", image, 0x214, entry)
    struct.pack_into("<QI", image, 0x258, 16 << 20, taken)
    return bytes(image)


def test_the_kernel_is_behind_the_initial_ram_disk_and_the_code_knows_where() -> None:
    found = reload(kernel(), b"disk", memory=MEMORY)
    assert found is not None
    assert found.initrd == b"disk" + bytes(4092) + b"\xaa" * 5 + bytes(3)
    assert found.kernel[:SETUP] == kernel()[:SETUP]
    code = Path(PROGRAM).read_bytes()
    assert found.kernel[SETUP:] == code[:-12] + struct.pack("<III", 4096, 2, 4)


def test_a_kernel_without_an_initial_ram_disk_is_all_there_is_in_its_place() -> None:
    found = reload(kernel(size=8), b"", memory=MEMORY)
    assert found is not None
    assert found.initrd == b"\xaa" * 8
    assert found.kernel.endswith(struct.pack("<III", 0, 2, 0))


@pytest.mark.parametrize(
    "image",
    [b"", b"\x7fELF" + bytes(4096), kernel(version=0x209), kernel(flags=0), kernel(entry=0x200000)],
    ids=["empty", "ELF", "too old", "loaded low", "entered elsewhere"],
)
def test_what_is_no_bzimage_as_it_should_be_is_left_as_it_is(image: bytes) -> None:
    assert reload(image, b"", memory=MEMORY) is None


def test_a_machine_without_room_for_the_kernel_twice_keeps_it_as_it_is() -> None:
    assert reload(kernel(), bytes(16 << 20), memory=81 << 20) is not None
    assert reload(kernel(), bytes(16 << 20), memory=80 << 20) is None
    assert reload(kernel(taken=60 << 20), bytes(16 << 20), memory=96 << 20) is None
    assert reload(kernel(taken=2 << 30), bytes(16 << 20), memory=16 << 30) is None
