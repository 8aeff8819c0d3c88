"""The seccomp filter under which packages are installed: what becomes of which system call. Pure.

A classic BPF program over ``struct seccomp_data`` (<linux/seccomp.h>, <linux/filter.h>), for x86-64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

OWNER_CALLS: Final = {"chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260}
"""Changes of a file's owner: left to the supervisor, which notes them."""
ID_CALLS: Final = {
    "setuid": 105,
    "setgid": 106,
    "setreuid": 113,
    "setregid": 114,
    "setgroups": 116,
    "setresuid": 117,
    "setresgid": 119,
    "setfsuid": 122,
    "setfsgid": 123,
    "capset": 126,
}
"""Changes of who one is, in a namespace with one user: they succeed and nothing changes."""
SYNC_CALLS: Final = {"fsync": 74, "fdatasync": 75, "sync": 162, "sync_file_range": 277, "syncfs": 306}
"""Waiting for the disk: a build that is cut off is thrown away, so there is nothing to wait for."""
NODE_CALLS: Final = {"mknod": (133, 1), "mknodat": (259, 2)}
"""The making of device nodes, by number and which argument is the mode. The guest's kernel makes its own."""

_ARCHITECTURE: Final = 0xC000003E  # AUDIT_ARCH_X86_64
_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000
_SUCCEED: Final = 0x00050000  # SECCOMP_RET_ERRNO, with no error
_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AND: Final = 0x54
_RETURN: Final = 0x06
_NR_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_FORMAT: Final = 0o170000
_CHARACTER_DEVICE: Final = 0o020000
_BLOCK_DEVICE: Final = 0o060000


def syncs_only() -> bytes:
    """The filter for root: nothing but the waiting is left out."""
    return _program(_answer(SYNC_CALLS.values(), _SUCCEED))


def all_of_it() -> bytes:
    """The filter for a user namespace that has only one user."""
    body = _answer(OWNER_CALLS.values(), _NOTIFY)
    body += _answer([*SYNC_CALLS.values(), *ID_CALLS.values()], _SUCCEED)
    for number, argument in NODE_CALLS.values():
        body += _no_devices(number, argument)
    return _program(body)


def _program(body: list[bytes]) -> bytes:
    head = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, _ARCHITECTURE, if_not=0, if_so=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_LOAD, _NR_AT),
    ]
    return b"".join([*head, *body, _instruction(_RETURN, _ALLOW)])


def _answer(numbers: Iterable[int], action: int) -> list[bytes]:
    return [
        instruction
        for number in numbers
        for instruction in (_instruction(_EQUAL, number, if_not=1), _instruction(_RETURN, action))
    ]


def _no_devices(number: int, argument: int) -> list[bytes]:
    """Nodes of other kinds, which are FIFOs mostly, are made; the accumulator is the call's number again after it."""
    return [
        _instruction(_EQUAL, number, if_not=6),
        _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument),
        _instruction(_AND, _FORMAT),
        _instruction(_EQUAL, _CHARACTER_DEVICE, if_so=1),
        _instruction(_EQUAL, _BLOCK_DEVICE, if_not=1),
        _instruction(_RETURN, _SUCCEED),
        _instruction(_RETURN, _ALLOW),
    ]


def _instruction(code: int, operand: int, *, if_so: int = 0, if_not: int = 0) -> bytes:
    """``struct sock_filter``."""
    return struct.pack("<HBBI", code, if_so, if_not, operand)
