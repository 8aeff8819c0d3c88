"""A fork's kernel, for when its guest reboots: in a file that all forks map, and not in each QEMU's own memory.

QEMU reads ``-kernel`` into its memory, a third of all that a fork touches when it starts, which is needed by those only
whose guests reboot. ``-initrd`` it maps. So the kernel goes behind the initial RAM disk, and in the kernel's place
there is its own real-mode part with a hundred bytes of code that fetch it from there: the assembly beside this file.
See Linux's Documentation/arch/x86/boot.rst, and ``x86_load_linux`` in QEMU's hw/i386/x86.c.

May import errors, and its neighbours in guest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = str(Path(__file__).with_name("reload.bin"))
"""Path of the code's bytes."""

_PAGE: Final = 4096
_SECTOR: Final = 512
_HEADER_END: Final = 0x264
_PROTOCOL_MIN: Final = 0x20A
"""Of the boot protocol: the first that says how much memory the kernel takes (``init_size``)."""
_LOADED_HIGH: Final = 1
_KERNEL: Final = 0x100000
"""Where the code expects to be entered (``code32_start``)."""
_TOP: Final = 0x7FFFFFFF
"""The RAM disk is put below this (``initrd_addr_max``), and below the end of the memory."""
_KEPT: Final = 16 << 20
"""Bytes that are left free between the kernel's memory and the RAM disk, for what the firmware has at the end."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What QEMU is given in place of a kernel and its initial RAM disk."""

    kernel: bytes
    initrd: bytes


def reload(kernel: bytes, initrd: bytes, *, memory: int) -> Reloaded | None:
    """What stands for `kernel` and `initrd` (or none: empty) in a machine with `memory` bytes and a BIOS.

    None where that kernel is no bzImage as it should be, or where there is no room for it behind its RAM disk.
    """
    if len(kernel) < _HEADER_END or kernel[0x202:0x206] != b"HdrS":
        return None
    (protocol,), (flags,) = struct.unpack_from("<H", kernel, 0x206), struct.unpack_from("<B", kernel, 0x211)
    (entry,), (preferred, taken) = struct.unpack_from("<I", kernel, 0x214), struct.unpack_from("<QI", kernel, 0x258)
    if protocol < _PROTOCOL_MIN or not flags & _LOADED_HIGH or entry != _KERNEL:
        return None
    setup = ((kernel[0x1F1] or 4) + 1) * _SECTOR
    body = kernel[setup:] + bytes(-(len(kernel) - setup) % 4)
    padding = bytes(-len(initrd) % _PAGE)
    behind = initrd + padding + body
    if max(preferred + taken, _KERNEL + len(body)) + _KEPT + len(behind) > min(memory, _TOP):
        return None
    numbers = struct.pack("<III", len(initrd) + len(padding), len(body) // 4, len(initrd))
    code = Path(PROGRAM).read_bytes()
    return Reloaded(kernel[:setup] + code[: -len(numbers)] + numbers, behind)
