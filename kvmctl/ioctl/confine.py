"""A program: mounts a tree in namespaces of its own and becomes another program, which sees it there.

    python confine.py ro|rw TREE MOUNT -- PROGRAM...

Run as a file and not imported by name, so that nothing but the standard library is loaded. In a user namespace the
program is root of what the user who started it may touch, and of nothing else: it can make no device nodes. A user
without privileges is root there; for root everybody is who they are. Read-only is a property of the mounts, those below
included, that nothing inside can take back, because it has no way to the mounts it was made from; what the host mounts
later does not come through.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final, NoReturn

# <linux/sched.h>, <linux/mount.h>, <linux/fcntl.h>; the numbers are the same on all architectures.
_CLONE_NEWNS: Final = 0x0002_0000
_CLONE_NEWUSER: Final = 0x1000_0000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_NOSUID: Final = 0x2
_MOUNT_ATTR_NODEV: Final = 0x4

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    """``struct mount_attr`` of <linux/mount.h>."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def main(argv: list[str]) -> NoReturn:
    """Do what the module says, or say what could not be done."""
    mode, tree, mount, _, *program = argv
    try:
        enter_namespaces()
        mount_tree(tree, mount, read_only=mode == "ro")
        enter_namespaces()  # for whom the mounts are the host's, of which the kernel lets nobody take a flag away
        os.execv(program[0], program)  # noqa: S606  # there never was a shell
    except OSError as error:
        what = error.filename or program[0]
        sys.exit(f"cannot share {tree!r}: {what}: {error.strerror}")


def enter_namespaces() -> None:
    """Leave the mounts, and all privileges but those over files. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        files = {name: _identity(f"/proc/self/{name}") for name in ("uid_map", "gid_map")}
    else:  # nobody can be but who started it; the kernel's condition is that no groups are dropped
        files = {"setgroups": "deny", "uid_map": f"0 {uid} 1", "gid_map": f"0 {gid} 1"}
    _unshare(files)
    # Otherwise what is mounted outside later would show here, and be writable.
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "making mounts private")


def _unshare(files: dict[str, str]) -> None:
    """Enter namespaces whose `files` somebody writes who has stayed outside, as the kernel wants it."""
    inside, is_inside = os.pipe()
    us, writer = os.getpid(), os.fork()
    if writer == 0:
        os.close(is_inside)
        os.read(inside, 1)
        for name, text in files.items():
            _write(f"/proc/{us}/{name}", text)
        os._exit(0)
    try:
        _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "making a user namespace")
    finally:
        os.close(is_inside)
        os.close(inside)
        _, status = os.waitpid(writer, 0)
    if status:
        raise OSError(0, "users can't be mapped", "making a user namespace")


def _identity(path: str) -> str:
    """The map that leaves everybody in the map at `path` who they are."""
    with open(path, encoding="ascii") as file:
        return "".join(f"{first} {first} {count}\n" for first, _, count in map(str.split, file))


def mount_tree(tree: str, mount: str, *, read_only: bool) -> None:
    """Mount the directory `tree` with all below it at `mount`, without devices and setuid programs. Raises OSError."""
    call = _libc.syscall
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    copy = _check(call(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(tree), flags), tree)
    wanted = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | (_MOUNT_ATTR_RDONLY if read_only else 0)
    # SAFETY: the kernel reads as many bytes of the structure as it is told, during the call.
    attr = _MountAttr(attr_set=wanted)
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    _check(call(_SYS_MOUNT_SETATTR, copy, b"", flags, ctypes.byref(attr), size), "mount_setattr (Linux 5.12)")
    target = os.fsencode(mount)
    _check(call(_SYS_MOVE_MOUNT, copy, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH), mount)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
