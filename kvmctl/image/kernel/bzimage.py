"""What is in a kernel's image: its version, and the kernel proper. By Documentation/arch/x86/boot.rst.

QEMU starts the kernel proper as well, if it has an entry for that (PVH): the guest then need not unpack it, which
without KVM takes it a quarter of its boot, or half where it is packed with xz. Pure.
"""

from __future__ import annotations

import struct
from typing import Final

from kvmctl.image.compression import expand_kernel

HEADER_SIZE: Final = 0x10400
"""Bytes from the start in which the version is: a 16-bit pointer, and room for the text."""
_MAGIC: Final = b"HdrS"
_MAGIC_AT: Final = 0x202
_PT_NOTE: Final = 4
_PVH_ENTRY: Final = 18
"""``XEN_ELFNOTE_PHYS32_ENTRY`` (xen/interface/elfnote.h)."""


def is_bzimage(head: bytes) -> bool:
    """Whether a file that begins so is an x86 kernel."""
    return head[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC


def find_version(head: bytes) -> str | None:
    """What ``uname -r`` will say, from the first `HEADER_SIZE` bytes; None where the image does not tell."""
    (pointer,) = struct.unpack_from("<H", head, 0x20E)
    if not pointer:
        return None
    text = head[pointer + 0x200 :].partition(b"\0")[0]
    return text.split(b" ")[0].decode(errors="replace") or None


def find_vmlinux(image: bytes) -> bytes | None:
    """The kernel proper, if QEMU can start that; None where it can't, or it is packed in an unknown way.

    Raises ValueError for an image that is damaged.
    """
    sectors = image[0x1F1] or 4
    offset, size = struct.unpack_from("<II", image, 0x248)
    begin = (sectors + 1) * 512 + offset
    if not size or len(image) < begin + size:
        message = "it ends in the middle"
        raise ValueError(message)
    kernel = expand_kernel(image[begin : begin + size])
    return kernel if kernel is not None and _has_pvh_entry(kernel) else None


def _has_pvh_entry(elf: bytes) -> bool:
    if elf[:6] != b"\x7fELF\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", elf, 0x20)
    size, count = struct.unpack_from("<HH", elf, 0x36)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + index * size) for index in range(count)]
    return any(
        _has_pvh_note(elf[header[2] : header[2] + header[5]]) for header in headers if header[0] == _PT_NOTE
    )  # fmt: skip


def _has_pvh_note(notes: bytes) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        if kind == _PVH_ENTRY and notes[at + 12 :].startswith(b"Xen\0"):
            return True
        at += 12 + (name_size + 3 & ~3) + (size + 3 & ~3)
    return False
