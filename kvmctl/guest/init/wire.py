"""What is said between host and init over the virtio-serial port; ``src/wire.h`` is the other side. Pure.

A frame is the length of its body (4 bytes, little-endian), its type (1 byte), its body. Settings are pairs of
zero-terminated texts.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from kvmctl.errors import AgentError

HEADER: Final = struct.Struct("<IB")
_NUMBER: Final = struct.Struct("<i")
_GRANT: Final = struct.Struct("<I")
WINDOW: Final = 128 << 10
"""Bytes of input that may be on their way before more are granted."""
INPUT_MAX: Final = 32 << 10
"""Bytes of input in a frame."""
ORDER_MAX: Final = 2 << 20
"""Bytes of settings; about what the kernel takes of words and environment (execve(2))."""
BODY_MAX: Final = 64 << 10
"""Bytes of a frame that init sends: what is longer comes from something else."""


class Send(Enum):
    """Types of frames to init."""

    SETUP = b"S"
    COMMAND = b"C"
    INPUT = b"I"
    END = b"E"
    SIGNAL = b"K"
    SIZE = b"W"


class Take(Enum):
    """Types of frames from init."""

    READY = b"R"
    OUTPUT = b"o"
    ERRORS = b"e"
    GRANT = b"g"
    EXITED = b"x"
    REFUSED = b"r"
    FAILED = b"f"


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame from init."""

    type: Take
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """What init could not do, and the kernel's reason."""

    errno: int
    doing: str

    def __str__(self) -> str:
        return f"{self.doing}: {os.strerror(self.errno)}"


def encode(kind: Send, body: bytes = b"") -> bytes:
    """A frame to init."""
    return HEADER.pack(len(body), kind.value[0]) + body


def settings(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The body of SETUP and COMMAND. Raises AgentError for what can't be said so."""
    words = [os.fsencode(word) for pair in pairs for word in pair]
    for word in words:
        if b"\0" in word:
            raise AgentError(f"{os.fsdecode(word)!r} has a zero byte, and can't be handed to a program")
    body = b"".join(word + b"\0" for word in words)
    if len(body) > ORDER_MAX:
        raise AgentError(f"{len(body)} bytes of arguments and environment are more than the {ORDER_MAX} there may be")
    return body


class Decoder:
    """Frames out of pieces of any size. The guest's root may say anything here: nothing is taken on trust."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes. Raises AgentError for what init never says."""
        self._data += data
        while len(self._data) >= HEADER.size:
            size, kind = HEADER.unpack_from(self._data)
            if size > BODY_MAX or bytes([kind]) not in _TYPES:
                raise AgentError(f"the guest's init said what it never says: type {kind}, {size} bytes")
            end = HEADER.size + size
            if len(self._data) < end:
                return
            body = bytes(self._data[HEADER.size : end])
            del self._data[:end]
            yield Frame(Take(bytes([kind])), body)


_TYPES: Final = {kind.value for kind in Take}


def read_failure(body: bytes) -> Failure:
    """What a REFUSED or FAILED frame says. Raises AgentError."""
    return Failure(_read(_NUMBER, body), body[_NUMBER.size :].decode(errors="replace"))


def read_status(body: bytes) -> int:
    """What an EXITED frame says: a status as ``waitpid`` has it. Raises AgentError."""
    return _read(_NUMBER, body)


def read_grant(body: bytes) -> int:
    """What a GRANT frame says: bytes. Raises AgentError."""
    return _read(_GRANT, body)


def signal_frame(number: int) -> bytes:
    """A signal for the command."""
    return encode(Send.SIGNAL, bytes([number]))


def size_frame(rows: int, columns: int) -> bytes:
    """The size of the command's terminal."""
    return encode(Send.SIZE, struct.pack("<HH", rows, columns))


def _read(form: struct.Struct, body: bytes) -> int:
    if len(body) < form.size:
        raise AgentError(f"the guest's init sent {len(body)} bytes where a number was to be")
    number: int = form.unpack_from(body)[0]
    return number
