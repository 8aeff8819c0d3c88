"""Private directories and files for the image store, which lies below the runtime and can't use its own.

All 0700 and 0600 whatever the umask, and whole or not there at all. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kvmctl.errors import StateError


def make_directory(path: str) -> None:
    """Create `path` and its missing parents, 0700. Raises StateError."""
    if os.path.isdir(path):
        return
    make_directory(os.path.dirname(path))
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)  # a umask may have taken bits of ours away
    except OSError as error:
        raise cannot("create the directory", path, error) from error
    if not os.path.isdir(path):
        raise StateError(f"{path!r} is in the way: it should be a directory")


def write(path: str, data: bytes) -> None:
    """Write `data` to `path`, which has the old content or the new one, never half of it. Raises StateError."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open_private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        os.rename(temporary, path)
        sync_directory(os.path.dirname(path))
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise cannot("write", path, error) from error


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


def sync_directory(path: str) -> None:
    """Make renames in the directory `path` survive a power cut. Raises OSError."""
    with open_private(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


@contextmanager
def locked(path: str, *, is_shared: bool = False) -> Iterator[None]:
    """Hold the lock of the file `path`, waited for as long as it takes. Raises StateError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise cannot("open", path, error) from error
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


def cannot(verb: str, path: str, error: OSError) -> StateError:
    """The error for an operation on a file of ours that the system refused."""
    elsewhere = "or point KVMCTL_STATE_DIR or KVMCTL_CACHE_DIR elsewhere."
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            hint = f"Free some space, {elsewhere}"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            hint = f"Make it yours, {elsewhere}"
        case _:
            hint = ""
    return StateError(f"cannot {verb} {path!r}: {error.strerror}", hint=hint)
