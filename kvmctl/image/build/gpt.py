"""GUID partition tables (UEFI specification, section 5) with a boot sector in front that a BIOS starts. Pure."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SECTOR: Final = 512
ALIGNMENT: Final = 1 << 20
"""Where partitions begin, in bytes: what every partitioning tool does since disks have larger sectors than they say."""

BIOS_BOOT: Final = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
"""Where GRUB lies for machines with a BIOS."""
EFI_SYSTEM: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ROOT_X86_64: Final = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
"""A root file system for x86-64, by which systemd knows it (Discoverable Partitions Specification)."""

_ENTRIES: Final = 128
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_TABLE_SECTORS: Final = _ENTRIES * _ENTRY.size // SECTOR


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition: `start` and `size` in bytes, both multiples of a sector."""

    type: uuid.UUID
    id: uuid.UUID
    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Table:
    """What a disk has at its two ends."""

    head: bytes
    """The boot sector, the table's header and its entries: 34 sectors."""
    tail: bytes
    """The backup of entries and header: the last 33 sectors."""


def make_table(partitions: Sequence[Partition], *, disk_id: uuid.UUID, disk_size: int, boot_code: bytes = b"") -> Table:
    """The table of a disk of `disk_size` bytes; `boot_code` are up to 440 bytes for a BIOS to start."""
    last = disk_size // SECTOR - 1
    entries = b"".join(map(_entry, partitions)).ljust(_ENTRIES * _ENTRY.size, b"\0")
    first = _header(entries, disk_id, at=1, other=last, last=last, table=2)
    backup = _header(entries, disk_id, at=last, other=1, last=last, table=last - _TABLE_SECTORS)
    return Table(_protective_mbr(boot_code, last) + first + entries, entries + backup)


def _entry(partition: Partition) -> bytes:
    first = partition.start // SECTOR
    last = first + partition.size // SECTOR - 1
    return _ENTRY.pack(
        partition.type.bytes_le, partition.id.bytes_le, first, last, 0, partition.name.encode("utf-16-le")
    )


def _header(entries: bytes, disk_id: uuid.UUID, *, at: int, other: int, last: int, table: int) -> bytes:
    def pack(checksum: int) -> bytes:
        usable = (2 + _TABLE_SECTORS, last - _TABLE_SECTORS - 1)
        return _HEADER.pack(
            b"EFI PART", 0x10000, _HEADER.size, checksum, 0, at, other, *usable, disk_id.bytes_le, table,
            _ENTRIES, _ENTRY.size, zlib.crc32(entries),
        )  # fmt: skip

    return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")


def _protective_mbr(boot_code: bytes, last: int) -> bytes:
    # One partition of type 0xEE over all of the disk, so that who does not know GPT leaves it alone. Its addresses by
    # cylinder mean "beyond what such an address can say".
    whole = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return boot_code.ljust(446, b"\0") + whole.ljust(64, b"\0") + b"\x55\xaa"
