"""How Linux packs an ioctl request: direction, size of the argument, group and number in one 32-bit word.

The layout is that of ``<asm-generic/ioctl.h>``, which x86, Arm, RISC-V, LoongArch and s390 share; MIPS, PowerPC and
SPARC have their own and are not KVM hosts that kvmctl launches x86 machines on.
"""

from __future__ import annotations

from typing import Final

_NUMBER_BITS: Final = 8
_GROUP_SHIFT: Final = _NUMBER_BITS
_SIZE_SHIFT: Final = _GROUP_SHIFT + 8
_SIZE_BITS: Final = 14
_DIRECTION_SHIFT: Final = _SIZE_SHIFT + _SIZE_BITS

_NONE: Final = 0
_WRITE: Final = 1
"""The caller writes: the kernel reads the argument."""
_READ: Final = 2
"""The caller reads: the kernel fills in the argument."""


def io(group: int, number: int) -> int:
    """``_IO``: a request with no argument, or an integer passed by value."""
    return _pack(_NONE, group, number, 0)


def iow(group: int, number: int, size: int) -> int:
    """``_IOW``: the kernel reads an argument of `size` bytes."""
    return _pack(_WRITE, group, number, size)


def ior(group: int, number: int, size: int) -> int:
    """``_IOR``: the kernel fills in an argument of `size` bytes."""
    return _pack(_READ, group, number, size)


def iowr(group: int, number: int, size: int) -> int:
    """``_IOWR``: the kernel reads an argument of `size` bytes and fills it in."""
    return _pack(_READ | _WRITE, group, number, size)


def argument_size(request: int) -> int:
    """The bytes of the argument that `request` announces; a variable-length one announces its header only."""
    return request >> _SIZE_SHIFT & ((1 << _SIZE_BITS) - 1)


def _pack(direction: int, group: int, number: int, size: int) -> int:
    fits = 0 <= number < 1 << _NUMBER_BITS and 0 <= group < 1 << 8 and 0 <= size < 1 << _SIZE_BITS
    if not fits:
        message = f"no ioctl request has group {group:#x}, number {number:#x} and an argument of {size} bytes"
        raise ValueError(message)
    return direction << _DIRECTION_SHIFT | size << _SIZE_SHIFT | group << _GROUP_SHIFT | number
