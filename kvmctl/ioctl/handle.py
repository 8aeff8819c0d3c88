"""A descriptor, and the one way requests reach the kernel through it: the only place that calls ``fcntl.ioctl``.

A test that hands over another ``ioctl`` sees everything that would go to the kernel (``kvmctl.testing.fakekvm``).
"""

from __future__ import annotations

import fcntl
import os
from ctypes import Structure, c_uint64, sizeof
from types import TracebackType
from typing import Protocol, Self, TypeVar

from kvmctl.ioctl.abi import Request
from kvmctl.ioctl.ioc import argument_size

Layout = TypeVar("Layout", bound=Structure)


class Ioctl(Protocol):
    """What `Handle` calls: an integer is passed by value, a buffer is read and written in place."""

    def __call__(self, fd: int, request: int, argument: int | bytearray, /) -> int:
        """The kernel's answer. Raises OSError."""


class IoctlFailed(OSError):
    """The kernel refused a request; `request` says which, ``errno`` why."""

    def __init__(self, request: Request, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or os.strerror(error.errno or 0))
        self.request = request

    def __str__(self) -> str:
        return f"{self.request.name}: {self.strerror}"


def system_ioctl(fd: int, request: int, argument: int | bytearray, /) -> int:
    """``ioctl(2)``."""
    return fcntl.ioctl(fd, request, argument)


class Handle:
    """A descriptor that answers ioctls; a context manager that closes it."""

    def __init__(self, fd: int, *, ioctl: Ioctl = system_ioctl) -> None:
        self._fd = fd
        self._ioctl = ioctl

    @classmethod
    def open(cls, path: str, *, ioctl: Ioctl = system_ioctl) -> Self:
        """Open a device node for reading and writing. Raises OSError."""
        return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC), ioctl=ioctl)

    def request(self, request: Request, argument: int | bytearray = 0) -> int:
        """Make one request and give the kernel's answer, never negative. Raises IoctlFailed."""
        # SAFETY: the kernel reads and writes as many bytes as the number announces, so a shorter buffer is refused
        # here; what follows a variable-length head is bounded by the count in that head, which the callers below
        # derive from the buffer they make. Nobody else holds the buffer while the call lasts.
        if isinstance(argument, bytearray) and len(argument) < argument_size(request.number):
            message = f"{request.name} takes {argument_size(request.number)} bytes, not {len(argument)}"
            raise ValueError(message)
        try:
            return self._ioctl(self._fd, request.number, argument)
        except OSError as error:
            raise IoctlFailed(request, error) from error

    def close(self) -> None:
        """Close the descriptor; closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, request: Request, layout: type[Layout]) -> Layout:
        """Make a request that fills in `layout`."""
        buffer = bytearray(sizeof(layout))
        # SAFETY: the buffer has the size of the layout that the request's number was made of.
        self.request(request, buffer)
        return layout.from_buffer(buffer)

    def write(self, request: Request, value: Structure | c_uint64) -> None:
        """Make a request that reads `value`."""
        # SAFETY: a copy of `value`, as long as its layout, that the kernel only reads.
        self.request(request, bytearray(value))
