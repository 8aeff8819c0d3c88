"""What the image store needs of files besides `kvmctl.files`: descriptors, locks, and the room that there is."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from kvmctl import files


@contextmanager
def open_private(path: str, flags: int) -> Iterator[int]:
    """A descriptor of `path`, created 0600 where `flags` say so. Raises OSError."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if flags & os.O_CREAT:
            os.fchmod(descriptor, 0o600)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: str, *, is_shared: bool = False) -> Iterator[None]:
    """Hold the lock of the file `path`, waited for as long as it takes. Raises StateError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise files.cannot("open", path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_flocked(path: str) -> bool:
    """Whether somebody holds the lock of the file `path`; False where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def size_of(path: str) -> int:
    """The bytes in `path`; -1 where there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return -1


def free_bytes(path: str) -> int:
    """What may still be written where `path` is, or will be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def mebibytes(count: int) -> str:
    """`count` bytes for a message."""
    return f"{count / (1 << 20):.1f} MiB"
