"""Files of kvmctl's own: private whatever the umask, and whole or not there at all."""

from __future__ import annotations

import errno
import os
from _thread import get_ident  # threading itself costs `list` too much
from contextlib import ExitStack, suppress

from kvmctl.errors import StateError


def make_private_dir(path: str) -> None:
    """Create `path` and its missing parents as 0700. Raises StateError."""
    if os.path.isdir(path):  # pathlib costs `list` more than all of this module
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        make_private_dir(parent)
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # a umask may have taken bits of ours away
    except FileExistsError:
        if not os.path.isdir(path):
            raise StateError(f"{path!r} is in the way: it should be a directory") from None
    except OSError as error:
        raise cannot("create the directory", path, error) from error


def write_atomic(path: str, data: bytes, *, is_volatile: bool = False) -> None:
    """Write `data` to `path`, 0600: the old content or the new one is there, never half of it. Raises StateError.

    What is volatile means nothing after a power cut, and is not waited for until it is on the disk.
    """
    temporary = f"{path}.{os.getpid()}.{get_ident()}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            _write_all(descriptor, data)
            if not is_volatile:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
        if not is_volatile:
            sync_dir(os.path.dirname(path))
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise cannot("write", path, error) from error


def copy_file(source: str, path: str) -> None:
    """Copy a file as it is, 0600; what was at `path` is replaced. Raises StateError."""
    try:
        with open(source, "rb") as original:
            data = original.read()
    except OSError as error:
        raise cannot("read", source, error) from error
    write_atomic(path, data, is_volatile=True)


def sync_dir(path: str) -> None:
    """Make renames in the directory `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_append(path: str, *, truncate: bool = False) -> int:
    """A descriptor that appends to `path`, created 0600. Raises StateError. The caller closes it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_TRUNC if truncate else 0)
    with ExitStack() as stack:
        try:
            descriptor = os.open(path, flags, 0o600)
            stack.callback(os.close, descriptor)
            os.fchmod(descriptor, 0o600)
        except OSError as error:
            raise cannot("open", path, error) from error
        stack.pop_all()
    return descriptor


def read_tail(path: str, *, limit: int) -> str:
    """The last `limit` bytes of `path` as text, from the start of a line; empty where there is no such file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            data = file.read(limit)
    except FileNotFoundError:
        return ""
    if size > limit:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def size_of(path: str) -> int:
    """The bytes in `path`; 0 where there is no such file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def remove_tree(path: str) -> None:
    """Remove `path` and all below it; nothing to do where it is not there. Raises StateError."""
    try:
        # By hand, for shutil brings three compressors with it, and every command would import them.
        for _, directories, names, here in os.fwalk(path, topdown=False, onerror=_raise):
            for name in (*names, *directories):
                _remove(name, here)
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise cannot("remove", path, error) from error


def _remove(name: str, directory: int) -> None:
    """Remove the file or empty directory `name` of an open directory."""
    with suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=directory)


def _raise(error: OSError) -> None:
    raise error


def cannot(verb: str, path: str, error: OSError) -> StateError:
    """The error for an operation on a file of ours that the system refused."""
    elsewhere = "or point KVMCTL_CONFIG_DIR, KVMCTL_STATE_DIR, KVMCTL_RUNTIME_DIR and KVMCTL_CACHE_DIR elsewhere."
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            hint = f"Free some space, {elsewhere}"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            hint = f"Make it yours, {elsewhere}"
        case _:
            hint = ""
    return StateError(f"cannot {verb} {path!r}: {error.strerror}", hint=hint)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
