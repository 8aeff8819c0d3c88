"""Runs a command under a seccomp filter, and notes which files it gives away: what makes root of a user who is not.

``python pretend.py FILTER ROOT RECORD COMMAND...``. FILTER is a program from `kvmctl.image.build.filter`, in hex.
Where ROOT is given, calls that change a file's owner come here: each succeeds, nothing is changed, and RECORD is at
last a JSON list of ``[path, uid, gid]`` of the files below ROOT that should not be root's. With an empty ROOT the
filter is all there is.

A program of its own, run by its path in another namespace: standard library only, nothing of kvmctl. Its sources are
seccomp_unotify(2), openat2(2) and statx(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP: Final = 317
_SET_FILTER: Final = 1
_NEW_LISTENER: Final = 1 << 3
_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
"""``struct seccomp_notif``: id, pid, flags, and the call: number, architecture, instruction, arguments."""
_ANSWER: Final = struct.Struct("=QqiI")
"""``struct seccomp_notif_resp``: id, value, error, flags."""

_CHOWN: Final = 92
_FCHOWN: Final = 93
_LCHOWN: Final = 94
_FCHOWNAT: Final = 260
_AT_FDCWD: Final = 0xFFFFFF9C
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000
_OPENAT2: Final = 437
_RESOLVE_IN_ROOT: Final = 0x10
_STATX: Final = 332
_STATX_INO_AND_BIRTH: Final = 0x100 | 0x800
_INO_AT: Final = 32
_BIRTH_AT: Final = 80
_STATX_SIZE: Final = 256
_UNCHANGED: Final = 0xFFFFFFFF
_PATH_MAX: Final = 4096
_PAGE: Final = 4096

_libc = ctypes.CDLL(None, use_errno=True)

Identity: TypeAlias = tuple[int, int, int]
"""A file's inode number and when it was born: numbers are given again to others."""


class _Filter(ctypes.Structure):
    """``struct sock_fprog`` of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


@dataclass(slots=True)
class Owners:
    """Who was given what."""

    given: dict[Identity, tuple[int, int]] = field(default_factory=dict)

    def note(self, descriptor: int, uid: int, gid: int) -> None:
        """The open file is given to `uid` and `gid`."""
        identity = _identify(descriptor)
        before = self.given.get(identity, (0, 0))
        self.given[identity] = (before[0] if uid == _UNCHANGED else uid, before[1] if gid == _UNCHANGED else gid)

    def below(self, root: str) -> Iterator[tuple[str, int, int]]:
        """The files below `root` that are not root's, by their paths in it."""
        for directory, directories, files in os.walk(root):
            for name in [*directories, *files]:
                path = os.path.join(directory, name)
                descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    uid, gid = self.given.get(_identify(descriptor), (0, 0))
                finally:
                    os.close(descriptor)
                if uid or gid:
                    yield f"/{os.path.relpath(path, root)}", uid, gid


def main() -> int:
    """Run the command; its exit status, or as of a shell where a signal ended it."""
    program, root, record, *command = sys.argv[1:]
    listener = install(bytes.fromhex(program), with_listener=bool(root))
    if not root:
        os.execvp(command[0], command)  # noqa: S606  # no shell, on purpose
    child = os.fork()
    if child == 0:
        os.close(listener)
        os.execvp(command[0], command)  # noqa: S606  # no shell, on purpose
    owners = Owners()
    supervise(listener, child, owners)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(record, "w", encoding="ascii") as file:
        json.dump(list(owners.below(root)), file)
    return status if status >= 0 else 128 - status


def install(program: bytes, *, with_listener: bool) -> int:
    """Put this process and its children under the filter; the descriptor that calls come by, or -1. Raises OSError."""
    # SAFETY: the kernel copies the program, of the length given, before the call returns; until then it is held here.
    buffer = ctypes.create_string_buffer(program, len(program))
    asked = _Filter(len(program) // 8, ctypes.addressof(buffer))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    result = _libc.syscall(_SECCOMP, _SET_FILTER, _NEW_LISTENER if with_listener else 0, ctypes.byref(asked))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    if with_listener:
        os.set_inheritable(result, False)  # noqa: FBT003  # it takes no keywords
        return int(result)
    return -1


def supervise(listener: int, child: int, owners: Owners) -> None:
    """Answer calls until `child` has ended; those of what it leaves behind are not answered."""
    ended = os.pidfd_open(child)
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    poller.register(ended, select.POLLIN)
    while (ended, select.POLLIN) not in (ready := poller.poll()):
        if (listener, select.POLLIN) in ready:
            with suppress(FileNotFoundError):  # the caller was killed meanwhile
                answer(listener, owners)
    os.close(ended)


def answer(listener: int, owners: Owners) -> None:
    """Take one call, note what it says, and let it succeed, or fail as it would have."""
    buffer = bytearray(_NOTIFICATION.size)
    fcntl.ioctl(listener, _RECEIVE, buffer)
    number, pid, _, call, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    error = 0
    try:
        descriptor = open_target(pid, call, arguments)
        try:
            uid, gid = arguments[2:4] if call == _FCHOWNAT else arguments[1:3]
            owners.note(descriptor, uid & _UNCHANGED, gid & _UNCHANGED)
        finally:
            os.close(descriptor)
    except OSError as problem:
        error = -(problem.errno or errno.EIO)
    fcntl.ioctl(listener, _SEND, bytearray(_ANSWER.pack(number, 0, error, 0)))


def open_target(pid: int, call: int, arguments: list[int]) -> int:
    """The file that the process means, opened by path. Raises OSError."""
    match call:
        case _ if call == _FCHOWN:
            return _open_descriptor(pid, arguments[0])
        case _ if call == _FCHOWNAT:
            base, address, flags = arguments[0] & 0xFFFFFFFF, arguments[1], arguments[4]
        case _:
            base, address, flags = _AT_FDCWD, arguments[0], _AT_SYMLINK_NOFOLLOW if call == _LCHOWN else 0
    path = _read_path(pid, address)
    if not path and flags & _AT_EMPTY_PATH:
        return _open_descriptor(pid, base)
    if not path:
        raise FileNotFoundError(errno.ENOENT, "an empty path")
    start = f"/proc/{pid}/cwd" if base == _AT_FDCWD else f"/proc/{pid}/fd/{base}"
    return _open_inside(pid, start, path, follow=not flags & _AT_SYMLINK_NOFOLLOW)


def _open_descriptor(pid: int, number: int) -> int:
    return os.open(f"/proc/{pid}/fd/{number & 0xFFFFFFFF}", os.O_PATH | os.O_CLOEXEC)


def _open_inside(pid: int, start: str, path: bytes, *, follow: bool) -> int:
    """`path` as the process sees it, which may have another root: no link leads out of that."""
    root = os.readlink(f"/proc/{pid}/root")
    if not path.startswith(b"/"):
        path = os.path.join(os.fsencode(os.path.relpath(os.readlink(start), root)), path)
    directory = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        # SAFETY: struct open_how and the path are read by the kernel before the call returns; both are held here.
        how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), 0, _RESOLVE_IN_ROOT)
        descriptor = _libc.syscall(_OPENAT2, directory, ctypes.c_char_p(path), ctypes.c_char_p(how), len(how))
    finally:
        os.close(directory)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)


def _read_path(pid: int, address: int) -> bytes:
    """The string at `address`, page by page: the one after its last may not be readable."""
    found = b""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        while len(found) < _PATH_MAX:
            piece, end, _ = memory.read(_PAGE - (address + len(found)) % _PAGE).partition(b"\0")
            found += piece
            if end:
                return found
    raise OSError(errno.ENAMETOOLONG, "the path is too long")


def _identify(descriptor: int) -> Identity:
    # SAFETY: statx(2) writes 256 bytes, the size of struct statx in every kernel, and the buffer has as many.
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if _libc.syscall(_STATX, descriptor, b"", _AT_EMPTY_PATH, _STATX_INO_AND_BIRTH, buffer):
        raise OSError(ctypes.get_errno(), "statx")
    born: tuple[int, int] = struct.unpack_from("=qI", buffer, _BIRTH_AT)
    return (struct.unpack_from("=Q", buffer, _INO_AT)[0], *born)


if __name__ == "__main__":
    sys.exit(main())
