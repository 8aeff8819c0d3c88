"""A directory of this host as a tar archive on its way to a guest: looked at first, so that its size is known.

Written in GNU's format, which busybox's and everybody else's tar reads. Symbolic links are kept as they are; hard links
become files; what is neither file, directory nor link is left out.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import CopyFailed

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
_TIME_MAX: Final = 8**11 - 1
"""Seconds that fit the header of every format."""


@dataclass(frozen=True, slots=True)
class Member:
    """One thing in an archive: its header, and what follows it."""

    header: bytes
    path: str = ""
    """The file on this host whose bytes follow; empty where none do."""
    size: int = 0
    """Bytes of it."""

    @property
    def padding(self) -> int:
        """Bytes to the end of its last block."""
        return -self.size % BLOCK


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory, looked at."""

    members: tuple[Member, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""
        return sum(len(item.header) + item.size + item.padding for item in self.members) + len(END)


def look_at_tree(path: str, *, name: str) -> Tree:
    """The directory `path` as an archive in which it is called `name`. Raises CopyFailed where it can't be read."""
    members: list[Member] = []
    skipped: list[str] = []
    try:
        for place, inside in _walk(path, name):
            found = os.stat(place) if place == path else os.lstat(place)
            member = _member(place, inside, found)
            if member is None:
                skipped.append(place)
            else:
                members.append(member)
    except OSError as error:
        raise CopyFailed(f"cannot read {error.filename!r}: {error.strerror}") from error
    return Tree(tuple(members), tuple(skipped))


def open_member(path: str) -> int:
    """A descriptor of a file that was looked at, which by now may be anything. Raises CopyFailed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CopyFailed(f"cannot read {path!r}: {error.strerror}") from error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise CopyFailed(f"{path!r} is no file any more")


def _walk(path: str, name: str) -> Iterator[tuple[str, str]]:
    """Every path at and below `path`, a directory before what is in it, and what it is called in the archive."""
    yield path, name
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        inside = f"{name}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, inside)
        else:
            yield entry.path, inside


def _member(path: str, inside: str, found: os.stat_result) -> Member | None:
    info = tarfile.TarInfo(inside)
    info.mode = stat.S_IMODE(found.st_mode)
    info.mtime = min(max(int(found.st_mtime), 0), _TIME_MAX)
    if stat.S_ISDIR(found.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISREG(found.st_mode):
        info.size = found.st_size
    else:
        return None
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return Member(header, path if info.size else "", info.size)
