"""GRUB without grub-install, which wants root and a real disk: its own images, put where it would put them. Pure.

A BIOS starts the boot sector, which loads the first sector of the core image, which loads the rest of it by a list of
blocks at its own end. Where these are is patched into both, as ``grub_util_bios_setup`` does (GRUB's
util/setup.c and include/grub/i386/pc/boot.h).
"""

from __future__ import annotations

import struct
from typing import Final

from kvmctl.image.build.gpt import SECTOR

BIOS_MODULES: Final = (
    "biosdisk",
    "part_gpt",
    "ext2",
    "search_fs_uuid",
    "normal",
    "configfile",
    "linux",
    "serial",
    "terminal",
    "test",
    "echo",
    "ls",
    "cat",
    "reboot",
    "halt",
)
"""What the core image is made of: all that grub.cfg uses, and a little for a person at its prompt."""

_BOOT_CODE: Final = slice(0, 440)
_KERNEL_SECTOR: Final = slice(0x5C, 0x64)
_BLOCK_LIST: Final = slice(0x1F4, 0x200)
_BLOCK: Final = struct.Struct("<QHH")
_LOAD_SEGMENT: Final = 0x820
"""``GRUB_BOOT_I386_PC_KERNEL_SEG`` and the core image's first sector, which is there already."""


def boot_code(boot_image: bytes, *, core_at: int) -> bytes:
    """The boot sector's code, made to load what begins at byte `core_at` of the disk that it was started from."""
    code = bytearray(boot_image[_BOOT_CODE])
    code[_KERNEL_SECTOR] = struct.pack("<Q", core_at // SECTOR)
    return bytes(code)


def place_core(core_image: bytes, *, core_at: int) -> bytes:
    """The core image, made to find its other sectors behind the first, which is at byte `core_at`."""
    core = bytearray(core_image.ljust(-len(core_image) // SECTOR * -SECTOR, b"\0"))
    core[_BLOCK_LIST] = _BLOCK.pack(core_at // SECTOR + 1, len(core) // SECTOR - 1, _LOAD_SEGMENT)
    return bytes(core)


def finder_config(root_id: str) -> str:
    """What GRUB begins with: find the file system `root_id`, and go on with the configuration that is there."""
    return f"search.fs_uuid {root_id} root\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n"


def boot_config(root_id: str, *, cmdline: str) -> str:
    """``grub.cfg`` of a Debian whose packages keep ``/vmlinuz`` and ``/initrd.img`` pointing to the newest kernel."""
    entries = "".join(
        f"menuentry '{title}' {{\n"
        f"    linux /vmlinuz{suffix} root=UUID={root_id} ro {cmdline}\n"
        f"    initrd /initrd.img{suffix}\n"
        "}\n"
        for title, suffix in (("Debian", ""), ("Debian, with the kernel before", ".old"))
    )
    return (
        "# /vmlinuz and /initrd.img are kept pointing to the newest kernel: nothing here changes with it.\n"
        "serial --unit=0 --speed=115200\n"
        "terminal_input serial console\n"
        "terminal_output serial console\n"
        "set timeout=0\n"
        "set default=0\n"
        f"set fallback=1\n{entries}"
    )
