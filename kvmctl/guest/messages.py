"""What is said at the port of the program that waits in a frozen guest, whatever carries it. No I/O, and no asyncio.

A message has a kind, a length and that many bytes; ``resident.S`` tells what is in them. May import errors, and its
neighbours in guest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, Protocol

from kvmctl.errors import AgentError
from kvmctl.guest.received import LineTooLong
from kvmctl.guest.renewal import ERRORS, Renewal

MESSAGE_MAX: Final = 32768
"""Bytes of a message."""
HEAD: Final = struct.Struct("<II")
"""The beginning of a message: its kind, and how many bytes follow. Of a command: what is wanted, and its words."""
NUMBER: Final = struct.Struct("<I")
"""A message that is a number."""


class Kind(IntEnum):
    """What a message is about."""

    RENEW = 1
    RUN = 2
    SIGNAL = 3
    READY = 16
    STDOUT = 17
    STDERR = 18
    EXITED = 19
    END = 20
    FAILED = 21


class Wire(Protocol):
    """A connection to the program. What is awaited raises EOFError and OSError."""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""

    async def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes."""


async def send(wire: Wire, kind: Kind, data: bytes) -> None:
    """Say `data`. Raises OSError."""
    await wire.send(HEAD.pack(kind, len(data)) + data)


async def receive(wire: Wire) -> tuple[Kind, bytes]:
    """The next message. Raises EOFError, OSError, and LineTooLong for what is none."""
    kind, size = HEAD.unpack(await wire.read_exactly(HEAD.size))
    if size > MESSAGE_MAX:
        raise LineTooLong
    try:
        return Kind(kind), await wire.read_exactly(size)
    except ValueError as error:
        raise LineTooLong from error


async def expect(wire: Wire, wanted: Kind) -> bytes:
    """What the next message says, which is to be `wanted`. Raises AgentError, and as `receive` does."""
    kind, data = await receive(wire)
    if kind is not wanted:
        raise AgentError(f"the program in the guest says {kind.name}, where it had to say {wanted.name}")
    return data


async def send_renewal(wire: Wire, renewal: Renewal) -> None:
    """Tell the program to renew the guest, were it before that runs. Raises OSError."""
    await send(wire, Kind.RENEW, renewal.dumps())


async def wait_renewed(wire: Wire) -> None:
    """Wait until the guest is renewed. Raises AgentError where it can't be, and as `receive` does."""
    (number,) = NUMBER.unpack(await expect(wire, Kind.FAILED))
    if number:
        what = ERRORS.get(number, f"failed with {number}")
        raise AgentError(f"the program that renews the guest {what}")


@contextmanager
def translated() -> Iterator[None]:
    """What breaks the connection, or makes no sense on it, is an AgentError; that the time is up is none."""
    try:
        yield
    except TimeoutError:
        raise
    except (LineTooLong, EOFError, OSError) as error:
        raise AgentError("the connection to the program in the guest is broken") from error
