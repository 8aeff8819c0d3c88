"""What there is to know of ELF files (64-bit, little-endian): a section's bytes, the libraries a program names."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SHT_DYNAMIC = 6
_DT_NEEDED = 1


@dataclass(frozen=True, slots=True)
class Section:
    """A section header, as far as it matters here (elf(5))."""

    name: str
    type: int
    link: int
    data: bytes


def sections(elf: bytes) -> list[Section]:
    """The sections of a file, in order. Raises ValueError for what is no 64-bit little-endian ELF."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQII", elf, table + index * size) for index in range(count)]
    names = headers[names_index][4]
    return [
        Section(
            name=_text(elf, names + header[0]),
            type=header[1],
            link=header[6],
            data=elf[header[4] : header[4] + header[5]],
        )
        for header in headers
    ]


def find_section(elf: bytes, name: str) -> bytes:
    """The bytes of a section; empty where there is none."""
    return next((section.data for section in sections(elf) if section.name == name), b"")


def needed_libraries(elf: bytes) -> list[str]:
    """The libraries that the dynamic linker loads for this file, by the names it looks for."""
    found = sections(elf)
    dynamic = next((section for section in found if section.type == _SHT_DYNAMIC), None)
    if dynamic is None:
        return []
    strings = found[dynamic.link].data
    return [_text(strings, value) for tag, value in _entries(dynamic.data) if tag == _DT_NEEDED]


def interpreter(elf: bytes) -> str:
    """The path of the dynamic linker; empty for static programs and libraries."""
    return find_section(elf, ".interp").rstrip(b"\0").decode()


def _entries(dynamic: bytes) -> Iterator[tuple[int, int]]:
    yield from struct.iter_unpack("<QQ", dynamic)


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
