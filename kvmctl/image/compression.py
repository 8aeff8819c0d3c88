"""Compressed data as packages, kernels and their modules hold it, told apart by how it begins."""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from typing import Final, Protocol

from kvmctl.image import zstd

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_XZ_MAGIC: Final = b"\xfd7zXZ\x00"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_LZ4_MAGIC: Final = b"\x02\x21\x4c\x18"
_APPENDED: Final = 4
"""Bytes behind a kernel's zstd data: its size, which the kernel's build appends (scripts/Makefile.lib)."""


def expand(data: bytes) -> bytes:
    """`data` decompressed, if it is xz, zstd or gzip; tarfile itself knows the older ones."""
    if data.startswith(_XZ_MAGIC):
        return lzma.decompress(data)
    if data.startswith(_ZSTD_MAGIC):
        return zstd.decompress(data)
    if data.startswith(_GZIP_MAGIC):
        return gzip.decompress(data)
    return data


def expand_kernel(payload: bytes) -> bytes | None:
    """A kernel's payload decompressed; None where it is packed in a way not known here. Raises ValueError if damaged.

    What follows the compressed data is left alone.
    """
    try:
        if payload.startswith(_XZ_MAGIC):
            return _all_of(lzma.LZMADecompressor(lzma.FORMAT_XZ), payload)
        if payload.startswith(_GZIP_MAGIC):
            return _all_of(zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), payload)
        if payload.startswith(_ZSTD_MAGIC):
            return zstd.decompress(payload[:-_APPENDED])
        if payload.startswith(_LZ4_MAGIC):
            return _expand_lz4(payload)
    except (lzma.LZMAError, zlib.error, IndexError) as error:
        message = f"damaged data: {error}"
        raise ValueError(message) from error
    return payload if payload.startswith(b"\x7fELF") else None


class _Decompressor(Protocol):
    """What lzma's and zlib's have in common."""

    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _all_of(decompressor: _Decompressor, payload: bytes) -> bytes:
    data = decompressor.decompress(payload)
    if not decompressor.eof:
        message = "the compressed kernel in it ends in the middle"
        raise ValueError(message)
    return data


def _expand_lz4(data: bytes) -> bytes:
    """LZ4's legacy frame, as the kernel's build makes it: blocks of 8 MiB, each with its compressed size before it."""
    result = bytearray()
    at = len(_LZ4_MAGIC)
    while at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if not 0 < size <= len(data) - at - 4:
            break  # the size of the whole, which the build appends
        result += _expand_lz4_block(data[at + 4 : at + 4 + size])
        at += 4 + size
    return bytes(result)


def _expand_lz4_block(block: bytes) -> bytearray:
    """One block: literals and copies of what came before, by turns (LZ4's doc/lz4_Block_format.md)."""
    result = bytearray()
    at, end = 0, len(block)
    while at < end:
        token = block[at]
        at, length = _length(block, at + 1, token >> 4)
        result += block[at : at + length]
        at += length
        if at >= end:
            break
        offset = block[at] | block[at + 1] << 8
        at, length = _length(block, at + 2, token & 15)
        length += 4
        start = len(result) - offset
        if offset >= length:
            result += result[start : start + length]
        else:  # a copy that overlaps itself repeats
            result += (bytes(result[start:]) * (length // offset + 1))[:length]
    return result


def _length(block: bytes, at: int, first: int) -> tuple[int, int]:
    length = first
    if first == 15:
        while True:
            more = block[at]
            at += 1
            length += more
            if more != 255:
                break
    return at, length
