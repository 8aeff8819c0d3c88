"""What comes out of a guest, made beside its place on this host and put there when all of it has come.

What is in the way of a directory is a directory, which it is merged with: files replace files, and nothing is followed
that a guest may have put there before.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from kvmctl.errors import AgentError, CopyFailed, NotFound
from kvmctl.guest.unpack import Unpacker, write_all

_TIME_MAX = 1 << 40


class FileArrival:
    """A file that is coming, for `place`. Left without `finish`, nothing stays."""

    def __init__(self, place: str, *, mode: int, mtime: float) -> None:
        """Raises CopyFailed."""
        self._place = place
        self._mode = mode
        self._mtime = mtime
        self._temporary = _beside(place)
        self.skipped: list[str] = []
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o600)
        except OSError as error:
            raise _cannot(place, error) from error

    def put(self, data: memoryview) -> None:
        """Take in the next piece. Raises CopyFailed."""
        try:
            write_all(self._descriptor, data)
        except OSError as error:
            raise _cannot(self._place, error) from error

    def finish(self) -> None:
        """All has come: put it in its place. Raises CopyFailed."""
        try:
            os.fchmod(self._descriptor, self._mode)
            os.utime(self._descriptor, (self._mtime, self._mtime))
            os.replace(self._temporary, self._place)
        except OSError as error:
            raise _cannot(self._place, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)


class TreeArrival:
    """A directory that is coming as an archive, for `place`. Left without `finish`, nothing stays."""

    def __init__(self, place: str) -> None:
        """Raises CopyFailed."""
        self._place = place
        self._temporary = _beside(place)
        try:
            os.mkdir(self._temporary, 0o700)
            self._unpacker = Unpacker(self._temporary)
        except OSError as error:
            raise _cannot(place, error) from error

    @property
    def skipped(self) -> list[str]:
        """What was left out of it."""
        return self._unpacker.skipped

    def put(self, data: memoryview) -> None:
        """Take in the next piece of the archive. Raises CopyFailed."""
        try:
            self._unpacker.feed(data)
        except (OSError, ValueError) as error:
            raise _cannot(self._place, error) from error

    def finish(self) -> None:
        """All has come: put it in its place, or into the directory that is there. Raises CopyFailed."""
        try:
            self._unpacker.finish()
            if os.path.lexists(self._place):
                merge(self._temporary, self._place)
            else:
                os.rename(self._temporary, self._place)
        except OSError as error:
            raise _cannot(self._place, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unpacker.close()
        _remove(self._temporary)


Arrival: TypeAlias = FileArrival | TreeArrival


def begin_arrival(words: Sequence[str], place: str) -> tuple[Arrival, int | None]:
    """What the guest announces in `words`, for `place`, and how many bytes it is to be.

    Raises CopyFailed, AgentError.
    """
    match words:
        case ["tree", *_]:
            if os.path.lexists(place) and not _is_directory(place):
                raise CopyFailed(f"{place!r} is there, and no directory")
            return TreeArrival(place), None
        case ["file", *numbers]:
            mode, mtime, size = _numbers(numbers)
            if _is_directory(place):
                raise CopyFailed(f"{place!r} is a directory")
            _check_space(place, size)
            return FileArrival(place, mode=mode & 0o777, mtime=min(mtime, _TIME_MAX)), size
        case _:
            raise AgentError(f"the guest's side of the copy talks nonsense: {' '.join(words)[:100]!r}")


def choose_place(target: str, *, name: str) -> str:
    """Where something called `name` goes that is copied to `target`: into it, if it is a directory. Raises NotFound."""
    if os.path.isdir(target):
        return os.path.join(target, name)
    parent = os.path.dirname(target.rstrip("/")) or "."
    if target.endswith("/") or not os.path.isdir(parent):
        raise NotFound(f"there is no directory {target if target.endswith('/') else parent!r}")
    return target


def merge(source: str, target: str) -> None:
    """Move what is in the directory `source` into `target`, file by file, following nothing. Raises CopyFailed."""
    os.chmod(source, 0o700)  # it is to be emptied
    with os.scandir(source) as entries:
        found = list(entries)
    for entry in found:
        there = os.path.join(target, entry.name)
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_directory and _is_directory(there):
            merge(entry.path, there)
        elif is_directory and os.path.lexists(there):
            raise CopyFailed(f"{there!r} is there, and no directory")
        elif _is_directory(there):
            raise CopyFailed(f"{there!r} is a directory")
        else:
            os.replace(entry.path, there)


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _numbers(words: Sequence[str]) -> tuple[int, int, int]:
    """Mode, time and size of a file, as far as the guest has a ``stat`` that tells them."""
    if not words:
        return 0o644, 0, 0
    try:
        mode, mtime, size = int(words[0], 8), int(words[1]), int(words[2])
    except (ValueError, IndexError) as error:
        raise AgentError(f"the guest's side of the copy talks nonsense: {' '.join(words)[:100]!r}") from error
    return mode, max(mtime, 0), max(size, 0)


def _check_space(place: str, size: int) -> None:
    found = os.statvfs(os.path.dirname(place) or ".")
    free = found.f_bavail * found.f_frsize
    if size > free:
        raise CopyFailed(f"{place!r} would take {size} bytes, and there are {free} left")


def _beside(place: str) -> str:
    return os.path.join(os.path.dirname(place), f".kvmctl-{secrets.token_hex(8)}")


def _remove(path: str) -> None:
    """Remove a directory of ours, whatever modes a guest has given to what is in it."""
    with suppress(FileNotFoundError):
        for directory, _, _ in os.walk(path):
            os.chmod(directory, 0o700)
        shutil.rmtree(path)


def _cannot(place: str, error: Exception) -> CopyFailed:
    words = error.strerror if isinstance(error, OSError) else str(error)
    return CopyFailed(f"cannot write {place!r}: {words}")
