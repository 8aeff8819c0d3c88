"""Open-file-description locks: what QEMU locks images with, and what kvmctl locks machines with.

Such a lock belongs to the open file, not to the process: a child that inherits the descriptor keeps it, and it goes
when the last copy is closed, whatever ended its holder. Unlike ``flock`` it can be asked about without being taken
for a moment, so that looking never gets in the way of somebody who really wants it. See fcntl_locking(2), "Open file
description locks".
"""

from __future__ import annotations

import fcntl
import os
import struct

_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid."""


def try_lock(descriptor: int) -> bool:
    """Take the write lock on the whole of the open file; False where another open file has it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def try_lock_byte(descriptor: int, start: int) -> bool:
    """Take the write lock on one byte of the open file; False where another open file has it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock_byte(descriptor: int, start: int) -> None:
    """Give back the lock on one byte of the open file."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, 1, 0))


def try_share(descriptor: int) -> bool:
    """Take a read lock on the whole of the open file; False where another open file has the write lock."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def share(descriptor: int) -> None:
    """Take a read lock on the whole of the open file, as soon as no other open file has the write lock."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))


def is_locked(descriptor: int, *, start: int = 0, length: int = 0) -> bool:
    """Whether another open file holds a lock in the range; a `length` of 0 reaches to the end. Takes nothing."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind: int = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK


def is_path_locked(path: str, *, start: int = 0, length: int = 0) -> bool:
    """`is_locked` for the file at `path`; False where there is none. Raises OSError where it can't be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return is_locked(descriptor, start=start, length=length)
    finally:
        os.close(descriptor)


_WRITE_BYTE = 101
"""QEMU's ``RAW_LOCK_PERM_BASE`` (100) + ``BLK_PERM_WRITE``'s bit (1): locked by whoever writes (block/file-posix.c)."""
_NO_SHARED_WRITE_BYTE = 201
"""``RAW_LOCK_SHARED_BASE`` (200) + the same bit: locked by whoever lets nobody else write."""


def is_in_use(path: str, *, for_writing: bool) -> bool:
    """Whether a QEMU holds `path` in a way that forbids opening it. Raises OSError where it can't be read."""
    if not os.path.isfile(path):
        return False
    taken = is_path_locked(path, start=_NO_SHARED_WRITE_BYTE, length=1) if for_writing else False
    return taken or is_path_locked(path, start=_WRITE_BYTE, length=1)
