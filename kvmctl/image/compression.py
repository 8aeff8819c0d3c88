"""Compressed data as packages, kernels and their modules hold it, told apart by how it begins."""

from __future__ import annotations

import lzma

from kvmctl.image import zstd

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_XZ_MAGIC = b"\xfd7zXZ\x00"


def expand(data: bytes) -> bytes:
    """`data` decompressed, if it is xz or zstd; tarfile itself knows the older ones."""
    if data.startswith(_XZ_MAGIC):
        return lzma.decompress(data)
    if data.startswith(_ZSTD_MAGIC):
        return zstd.decompress(data)
    return data
