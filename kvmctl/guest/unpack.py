"""Making a directory of a tar archive that a guest sends, which may be made to break out of it.

Nothing of the archive is trusted: every path is walked from the directory's own descriptor, one component after the
other, and no symbolic link is followed on the way, were it in the archive itself. So what is written is below the
directory, whatever the paths say. Links are kept as they are, and never gone through. What no file of a user's should
be by surprise is left out: devices, FIFOs, and the bits that give rights to who runs a file.

The archive is pushed in as it comes, in pieces of any size. Understood are POSIX's formats and GNU's, which is what
busybox, GNU and BSD write. Source: tar(5), POSIX.1-2017 pax.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from kvmctl.errors import CopyFailed

BLOCK: Final = 512
_EXTENSION_MAX: Final = 1 << 20
"""Bytes of a long name or of pax records; PATH_MAX is 4096."""
_TIME_MAX: Final = 1 << 40
_SKIPPED_MAX: Final = 100
"""Names that are kept of what was left out."""

_LONG: Final = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX: Final = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


class Unpacker:
    """The archive on its way into the directory `place`, which is there and is empty."""

    def __init__(self, place: str) -> None:
        self._root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._block = bytearray()
        self._wanted = BLOCK
        self._extension = b""
        """The type of the extension that is being read; empty in a header."""
        self._extra: dict[str, str] = {}
        self._file = -1
        self._member = tarfile.TarInfo()
        self._left = 0
        self._padding = 0
        self._directories: list[tuple[tuple[str, ...], int, float]] = []
        self._has_ended = False
        self.skipped: list[str] = []
        """What was left out, as far as it is few."""

    def feed(self, data: memoryview) -> None:
        """Take in the next piece. Raises CopyFailed, OSError."""
        while data and not self._has_ended:
            data = data[self._take(data) :]

    def _take(self, data: memoryview) -> int:
        """Take in the beginning of `data`; how much that was."""
        if self._left:
            count = min(self._left, len(data))
            if self._file >= 0:
                write_all(self._file, data[:count])
            self._left -= count
            if not self._left:
                self._end_file()
            return count
        if self._padding:
            count = min(self._padding, len(data))
            self._padding -= count
            return count
        count = min(self._wanted - len(self._block), len(data))
        self._block += data[:count]
        if len(self._block) == self._wanted:
            block, self._block, self._wanted = bytes(self._block), bytearray(), BLOCK
            self._take_block(block)
        return count

    def _take_block(self, block: bytes) -> None:
        if self._extension:
            kind, self._extension = self._extension, b""
            self._extra |= _read_extension(kind, block)
            return
        if not block.strip(b"\0"):
            self._has_ended = True
            return
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise CopyFailed(f"what the guest sends is no archive: {error}") from error
        if member.type in _LONG or member.type in _PAX or member.type == tarfile.XGLTYPE:
            self._begin_extension(member)
        else:
            self._begin(member)

    def _begin_extension(self, member: tarfile.TarInfo) -> None:
        if not 0 < member.size <= _EXTENSION_MAX:
            raise CopyFailed(f"the guest sends a name of {member.size} bytes")
        self._extension = member.type
        self._wanted = -(-member.size // BLOCK) * BLOCK

    def _begin(self, member: tarfile.TarInfo) -> None:
        extra, self._extra = self._extra, {}
        apply_extra(member, extra)
        self._member = member
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise CopyFailed(f"the guest sends {member.name!r} with holes, as it was not asked to")
        has_body = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        self._left = member.size if has_body else 0
        if self._left < 0:
            raise CopyFailed(f"the guest sends a file of {self._left} bytes")
        self._padding = -self._left % BLOCK
        parts = parse_path(member.name)
        if member.isreg():
            self._file = self._create(parts)
            if not self._left:
                self._end_file()
        elif member.isdir():
            self._make_directory(parts, member)
        elif member.issym():
            self._link(parts, member)
        elif member.islnk():
            self._hard_link(parts, member)
        elif len(self.skipped) < _SKIPPED_MAX:
            self.skipped.append(member.name)

    # -- what is made --------------------------------------------------------------------------------------------

    def _parent(self, parts: tuple[str, ...]) -> int:
        """A descriptor of the directory that `parts` are in; the caller closes it."""
        descriptor = os.dup(self._root)
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                below = os.open(part, flags, dir_fd=descriptor)
            except OSError as error:
                raise CopyFailed(
                    f"the guest sends {'/'.join(parts)!r}, and {part!r} is no directory: {error.strerror}"
                ) from error
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _create(self, parts: tuple[str, ...]) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        parent = self._parent(_named(parts))
        try:
            _clear(parts[-1], parent)
            return os.open(parts[-1], flags, 0o600, dir_fd=parent)
        finally:
            os.close(parent)

    def _end_file(self) -> None:
        if self._file < 0:
            return
        descriptor, self._file = self._file, -1
        try:
            os.fchmod(descriptor, self._member.mode & 0o777)
            os.utime(descriptor, (_time(self._member), _time(self._member)))
        finally:
            os.close(descriptor)

    def _make_directory(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> None:
        self._directories.append((parts, member.mode & 0o777, _time(member)))
        if not parts:
            return
        parent = self._parent(parts)
        try:
            with suppress(FileExistsError):
                os.mkdir(parts[-1], 0o700, dir_fd=parent)
        finally:
            os.close(parent)

    def _link(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> None:
        parent = self._parent(_named(parts))
        try:
            _clear(parts[-1], parent)
            os.symlink(member.linkname, parts[-1], dir_fd=parent)
            times = _time(member), _time(member)
            os.utime(parts[-1], times, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def _hard_link(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> None:
        target = _named(parse_path(member.linkname))
        there = self._parent(target)
        try:
            parent = self._parent(_named(parts))
            try:
                _clear(parts[-1], parent)
                os.link(target[-1], parts[-1], src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(parent)
        finally:
            os.close(there)

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """All has come: give the directories their modes and times. Raises CopyFailed where it is cut off."""
        if not self._has_ended:
            raise CopyFailed("what the guest sent ends in the middle")
        for parts, mode, time in reversed(self._directories):  # a directory's time is that of the last thing put in it
            descriptor = self._parent((*parts, "."))
            try:
                os.fchmod(descriptor, mode)
                os.utime(descriptor, (time, time))
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of what is open."""
        for descriptor in (self._file, self._root):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._root = -1


def parse_path(path: str) -> tuple[str, ...]:
    """The components of an archive's path. Raises CopyFailed for one that leads out of the archive."""
    parts = tuple(part for part in path.split("/") if part not in {"", "."})
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise CopyFailed(f"the guest sends {path[:300]!r}, a path that leads out of what was asked for")
    return parts


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of `data`. Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]


def apply_extra(member: tarfile.TarInfo, extra: Mapping[str, str]) -> None:
    """Give `member` what its extensions say. Raises CopyFailed for what is no number."""
    member.name = extra.get("path", member.name)
    member.linkname = extra.get("linkpath", member.linkname)
    try:
        member.size = int(extra.get("size", member.size))
        member.mtime = float(extra.get("mtime", member.mtime))
    except ValueError as error:
        raise CopyFailed("what the guest sends is no archive: a number is none") from error


def _read_extension(kind: bytes, block: bytes) -> dict[str, str]:
    if kind in _LONG:
        return {_LONG[kind]: block.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")}
    if kind == tarfile.XGLTYPE:
        return {}
    found, rest = {}, block.rstrip(b"\0")
    while rest:
        length, space, _ = rest.partition(b" ")
        if not space or not length.isdigit() or not 0 < int(length) <= len(rest):
            raise CopyFailed("what the guest sends is no archive: its extensions are broken")
        key, _, value = rest[len(length) + 1 : int(length)].removesuffix(b"\n").partition(b"=")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        rest = rest[int(length) :]
    return found


def _named(parts: tuple[str, ...]) -> tuple[str, ...]:
    if not parts:
        raise CopyFailed("the guest sends something else for the directory itself")
    return parts


def _clear(name: str, parent: int) -> None:
    """What comes later in an archive stands for what came before."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)


def _time(member: tarfile.TarInfo) -> float:
    time = float(member.mtime)
    return time if 0 <= time <= _TIME_MAX else 0.0  # which is what no number is, too
