"""What a qcow2 image says of itself, read from its header and from nothing else.

An image comes from elsewhere, and its header can name files of this host: a backing file, or one for its data. QEMU
would open them for whoever gives it the image, so an image of the store must name none. The layout is that of QEMU's
docs/interop/qcow2.txt.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import ImageError

MAGIC: Final = b"QFI\xfb"

_HEADER: Final = struct.Struct(">4sIQIIQIIQ")
"""magic, version (2, or 3, which has features), backing_file_offset, backing_file_size, cluster_bits, size,
crypt_method, l1_size, l1_table_offset."""
_FEATURES: Final = struct.Struct(">Q")
_FEATURES_AT: Final = 72
_CORRUPT: Final = 1 << 1
_EXTERNAL_DATA: Final = 1 << 2
_NAME_LIMIT: Final = 1023
"""Bytes of a backing file's name, by the format."""


@dataclass(frozen=True, slots=True)
class Header:
    """What matters here of a header; `size` is what a guest sees, in bytes."""

    size: int
    backing: str | None
    has_external_data: bool
    is_encrypted: bool
    is_corrupt: bool
    tables_end: int
    """Where the first table of clusters ends: a file that is shorter has been cut off."""


def read_header(path: str) -> Header | None:
    """The header of the image at `path`; None where it is no qcow2. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        start = os.pread(descriptor, _FEATURES_AT + _FEATURES.size, 0)
        if len(start) < _FEATURES_AT or not start.startswith(MAGIC):
            return None
        _, layout, name_at, name_length, _, size, crypt, l1_entries, l1_at = _HEADER.unpack_from(start)
        name = os.pread(descriptor, min(name_length, _NAME_LIMIT), name_at) if name_at and name_at < 1 << 32 else b""
    finally:
        os.close(descriptor)
    features = _FEATURES.unpack_from(start, _FEATURES_AT)[0] if layout != 2 and len(start) > _FEATURES_AT else 0
    return Header(
        size=size,
        backing=os.fsdecode(name) if name_at else None,
        has_external_data=bool(features & _EXTERNAL_DATA),
        is_encrypted=crypt != 0,
        is_corrupt=bool(features & _CORRUPT),
        tables_end=l1_at + 8 * l1_entries,
    )


def find_backing(path: str) -> str | None:
    """The file that the image at `path` is an overlay of; None where it is of none, or no qcow2, or gone.

    Raises OSError.
    """
    with suppress(FileNotFoundError):
        header = read_header(path)
        return header.backing if header else None
    return None


def check(path: str, *, image_format: str, name: str) -> int:
    """The size in bytes of the disk in the image at `path`, if it stands for itself; `name` is for the error.

    The format is what it is said to be, never found out. Raises ImageError.
    """
    try:
        length = os.stat(path).st_size
        header = read_header(path) if image_format == "qcow2" else None
    except OSError as error:
        raise ImageError(f"cannot read the image {name!r}: {error.strerror}") from error
    if image_format == "raw":
        return _check_raw(length, name=name)
    if header is None:
        raise ImageError(
            f"{name!r} is not a qcow2 image", hint="If it is a raw one, say so: --format raw; convert others: qemu-img."
        )
    _check_header(header, length, name=name)
    return header.size


def _check_raw(length: int, *, name: str) -> int:
    if length == 0:
        raise ImageError(f"the image {name!r} is empty")
    return -(-length // 512) * 512  # QEMU rounds up to whole sectors


def _check_header(header: Header, length: int, *, name: str) -> None:
    alone = f"Make it stand alone: qemu-img convert -O qcow2 {name} alone.qcow2"
    if header.backing is not None:
        raise ImageError(f"{name!r} is an overlay of {header.backing!r}, and an image must stand alone", hint=alone)
    if header.has_external_data:
        raise ImageError(f"{name!r} keeps its data in another file, and an image must stand alone", hint=alone)
    if header.is_encrypted:
        raise ImageError(f"{name!r} is encrypted, and an image is for everybody to read", hint=alone)
    if header.is_corrupt:
        raise ImageError(f"{name!r} is marked as corrupt", hint=f"Look at it, and repair it: qemu-img check {name}")
    if length < header.tables_end:
        raise ImageError(f"{name!r} is cut off: {length} bytes, and its tables end at {header.tables_end}")
