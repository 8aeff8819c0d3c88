"""What is to be copied into a guest: looked at beforehand, so that its size is known, and then read piece by piece."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kvmctl.errors import CopyFailed, NotFound
from kvmctl.guest.pack import END, Tree, look_at_tree, open_member


@dataclass(frozen=True, slots=True)
class Part:
    """The first `size` bytes of the file `path`; what it has become shorter by is made up with zeros if `padded`."""

    path: str
    size: int
    padded: bool


@dataclass(frozen=True, slots=True)
class Departure:
    """A file or directory of this host on its way to a guest."""

    name: str
    path: str
    kind: Literal["file", "tree"]
    mode: int
    mtime: float
    size: int
    """Bytes that go across."""
    tree: Tree | None = None

    @property
    def words(self) -> list[str]:
        """What the guest's script is told of it."""
        moment = time.strftime("%Y%m%d%H%M.%S", time.gmtime(max(0.0, self.mtime)))
        return [self.kind, str(self.size), f"{self.mode:o}", moment, self.name]

    @property
    def skipped(self) -> tuple[str, ...]:
        """What is left out."""
        return self.tree.skipped if self.tree else ()

    def pieces(self) -> Iterator[bytes | Part]:
        """Everything that goes across, in order."""
        if self.tree is None:
            yield Part(self.path, self.size, padded=False)
            return
        for member in self.tree.members:
            yield member.header
            if member.path:
                yield Part(member.path, member.size, padded=True)
                yield bytes(member.padding)
        yield END


def look_at(path: str) -> Departure:
    """The file or directory `path`, through a symbolic link if it is one. Raises NotFound, CopyFailed."""
    try:
        found = os.stat(path)
        place = os.path.realpath(path)
    except FileNotFoundError as error:
        raise NotFound(f"there is no {path!r}") from error
    except OSError as error:
        raise CopyFailed(f"cannot read {path!r}: {error.strerror}") from error
    name = os.path.basename(os.path.abspath(path))
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        tree = look_at_tree(place, name="tree")
        return Departure(name, place, "tree", mode, found.st_mtime, tree.size, tree)
    if not stat.S_ISREG(found.st_mode):
        raise CopyFailed(f"{path!r} is neither a file nor a directory")
    os.close(open_member(place))  # now, and not when the guest is waiting for it
    return Departure(name, place, "file", mode, found.st_mtime, found.st_size)
