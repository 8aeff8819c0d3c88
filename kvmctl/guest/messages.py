"""What is said at the port of the program that waits in a frozen guest, whatever carries it. No I/O, and no asyncio.

A message has a kind, a length and that many bytes; ``resident.S`` tells what is in them. May import errors, and its
neighbours in guest.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
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
_STREAMED: Final = 1
_TOKEN_BYTES: Final = 8


class Kind(IntEnum):
    """What a message is about."""

    RENEW = 1
    RUN = 2
    SIGNAL = 3
    HELLO = 4
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


async def greet(wire: Wire) -> None:
    """Wait until the program waits for us, whatever it may have said to whom it was connected with before.

    Raises EOFError, OSError.
    """
    token = os.urandom(_TOKEN_BYTES)
    await send(wire, Kind.HELLO, token)
    wanted = HEAD.pack(Kind.READY, len(token)) + token
    heard = b""
    while heard != wanted:
        heard = heard[1 - len(wanted) :] + await wire.read_exactly(1 if heard else len(wanted))


async def send_renewal(wire: Wire, renewal: Renewal) -> None:
    """Tell the program to renew the guest, were it before that runs. Raises OSError."""
    await send(wire, Kind.RENEW, renewal.dumps())


async def wait_renewed(wire: Wire) -> None:
    """Wait until the guest is renewed. Raises AgentError where it can't be, and as `receive` does."""
    (number,) = NUMBER.unpack(await expect(wire, Kind.FAILED))
    if number:
        what = ERRORS.get(number, f"failed with {number}")
        raise AgentError(f"the program that renews the guest {what}")


def dumps_command(argv: Sequence[str], stdin: bytes = b"", *, is_streamed: bool) -> bytes | None:
    """The message that has `argv` run, with all of its input; None where it is too long for one.

    Of a streamed command nobody waits for what others go on writing once it has ended.
    """
    words = b"".join(word.encode() + b"\0" for word in argv)
    message = HEAD.pack(_STREAMED if is_streamed else 0, len(argv)) + words + stdin
    return message if len(message) <= MESSAGE_MAX else None


class Command:
    """A command that the program runs, as far as it has been told of."""

    def __init__(self, puts: Sequence[Callable[[bytes], None]]) -> None:
        """`puts` take its output, and what it complains of."""
        self._puts = dict(zip((Kind.STDOUT, Kind.STDERR), puts, strict=True))
        self._status: int | None = None
        self._is_run = True

    @property
    def has_ended(self) -> bool:
        """Whether it has; its output may go on."""
        return self._status is not None

    def take(self, kind: Kind, data: bytes) -> bool:
        """Take a message in; whether it was the last one. Raises AgentError for one that is none of a command's."""
        match kind:
            case Kind.STDOUT | Kind.STDERR:
                self._puts[kind](data)
            case Kind.EXITED:
                (self._status,) = NUMBER.unpack(data)
            case Kind.FAILED:
                self._is_run = False
                return True
            case Kind.END if self._status is not None:
                return True
            case _:
                raise AgentError(f"the program in the guest says {kind.name} in the middle of a command")
        return False

    def end(self) -> tuple[int, int | None] | None:
        """Its exit code, and the signal that ended it: the code is 128 and that then. None where it was not run."""
        if not self._is_run or self._status is None:
            return None
        code = os.waitstatus_to_exitcode(self._status)
        return (128 - code, -code) if code < 0 else (code, None)


@contextmanager
def translated() -> Iterator[None]:
    """What breaks the connection, or makes no sense on it, is an AgentError; that the time is up is none."""
    try:
        yield
    except TimeoutError:
        raise
    except (LineTooLong, EOFError, OSError) as error:
        raise AgentError("the connection to the program in the guest is broken") from error
