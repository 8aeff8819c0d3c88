"""Reading .deb packages: an ar archive with a compressed tar in it (deb(5))."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kvmctl.image.compression import expand

_MAGIC = b"!<arch>\n"
_HEADER = 60


@dataclass(frozen=True, slots=True)
class Member:
    """A file or symbolic link of a package; `name` has no leading slash."""

    name: str
    mode: int
    data: bytes = b""
    target: str | None = None
    """Where a symbolic link points."""


def read_deb(path: Path) -> Iterator[Member]:
    """The files and links that a package installs. Raises ValueError for what is no package."""
    for name, data in _ar_members(path):
        if name.startswith("data.tar"):
            yield from _tar_members(expand(data))
            return
    raise ValueError(f"{path} has no data.tar")


def _ar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path} is not a Debian package")
        while len(header := file.read(_HEADER)) == _HEADER:
            size = int(header[48:58])
            data = file.read(size)
            if len(data) != size or header[58:] != b"`\n":
                raise ValueError(f"{path} is damaged")
            file.read(size % 2)  # members begin at even offsets
            yield header[:16].decode().rstrip(" /"), data


def _tar_members(data: bytes) -> Iterator[Member]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for item in archive:
            name = item.name.removeprefix("./").strip("/")
            if item.isreg():
                content = archive.extractfile(item)
                assert content is not None  # noqa: S101  # isreg() said so
                yield Member(name, item.mode, content.read())
            elif item.issym():
                yield Member(name, 0o777, target=item.linkname)
