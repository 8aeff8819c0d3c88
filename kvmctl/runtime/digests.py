"""The digests that templates, and what they are made of, are known by. Apart, because most forks need none."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from typing import Final

_BLOCK: Final = 1 << 18
_ZEROES: Final = bytes(_BLOCK)


def digest(path: str) -> str:
    """The SHA-256 of a file's size and of its blocks that are not all zeroes, each with its place.

    So a hole and zeroes that were written are the same, and holes cost nothing. Raises OSError.
    """
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        found.update(b"%d\n" % size)
        for place in _blocks_with_data(file.fileno(), size):
            block = os.pread(file.fileno(), _BLOCK, place)
            if block != _ZEROES[: len(block)]:
                found.update(b"%d\n" % place)
                found.update(block)
    return found.hexdigest()


def _blocks_with_data(descriptor: int, size: int) -> Iterator[int]:
    """Where the blocks begin that are not all hole. Raises OSError."""
    place = 0
    while place < size:
        try:
            data = os.lseek(descriptor, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        place = data - data % _BLOCK
        while place < hole:
            yield place
            place += _BLOCK
