"""The small types of a spec: each takes what one writes, refuses what could be misread, and holds one unit.

Sizes are binary and say so: ``"512MiB"``, ``"1.5GiB"``, or a whole number of bytes. ``"1G"`` and ``"1GB"`` are refused:
QEMU takes the one for 2^30 bytes, disk makers take the other for 10^9, and a machine with 7 % less memory than meant
is a fault that nobody finds. May import pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final
from unicodedata import category

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from kvmctl.errors import KvmctlError
from kvmctl.plan.paths import NAME, NAME_ALLOWED
from kvmctl.spec.model import reject

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

_UNITS: Final = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 1 << 40}
_SIZE: Final = r"(\d{1,20}(?:\.\d{1,20})?)\s*([A-Za-z]*)"
_SIZE_MAX: Final = (1 << 63) - 1
"""QEMU's sizes are signed in places (``off_t``)."""
_SIZE_ALLOWED: Final = "a size is written '512MiB' (B, KiB, MiB, GiB, TiB), or as a whole number of bytes"


SIZE_FORMS: Final = (
    {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*([KMGT]i)?B\s*$"},
    {"type": "integer", "minimum": 0},
)
"""What a size may be in JSON."""


def size_text(size: int) -> str:
    """`size` in the largest unit that divides it: ``1536MiB``."""
    for unit, factor in reversed(_UNITS.items()):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


def _parse_size(value: Any) -> int:
    size = value if isinstance(value, int) and not isinstance(value, bool) else _parse_written(value)
    if size < 0:
        raise reject("a size can't be negative", allowed=_SIZE_ALLOWED)
    if size > _SIZE_MAX:
        raise reject("is more than a machine can count", allowed="at most 8388607TiB")
    return size


def _parse_written(value: Any) -> int:
    if not isinstance(value, str):
        raise reject("is not a size", allowed=_SIZE_ALLOWED)
    match = re.fullmatch(_SIZE, value.strip(), re.ASCII)
    if match is None:
        raise reject("is not a size", allowed=_SIZE_ALLOWED)
    number, unit = match.groups()
    return _bytes(Decimal(number), number, unit)


def _bytes(amount: Decimal, number: str, unit: str) -> int:
    if unit not in _UNITS:
        letter = unit[:1].upper()
        right = f"{letter}iB" if letter and letter in "KMGT" else "MiB"
        message = f"the unit {unit!r} is not a binary one" if unit else "a size in quotes needs a unit"
        raise reject(message, allowed=f"did you mean '{number}{right}'? {_SIZE_ALLOWED}")
    size = amount * _UNITS[unit]
    if size != int(size):
        raise reject("is not a whole number of bytes", allowed=_SIZE_ALLOWED)
    return int(size)


def parse_size(text: str) -> int:
    """The bytes that `text` stands for, written as in a spec: ``512MiB``. Raises KvmctlError."""
    try:
        return _parse_size(text)
    except PydanticCustomError as error:
        context = error.context or {}
        raise KvmctlError(f"{text!r}: {context.get('message')}", hint=str(context.get("allowed", ""))) from None


ByteSize = Annotated[
    int,
    BeforeValidator(_parse_size),
    WithJsonSchema({"anyOf": [*SIZE_FORMS]}),
]
"""Bytes."""


def string(value: Any) -> str:
    """`value`, which must be text."""
    if not isinstance(value, str):
        raise reject("must be text in quotes")
    return value


_CONTROLS: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, stray surrogates, and line and paragraph separators."""


def has_control_characters(line: str) -> bool:
    """Whether there is a newline, a NUL or anything else in `line` that controls rather than shows."""
    return any(category(char) in _CONTROLS for char in line)


def _parse_text(value: Any) -> str:
    if any(category(char) == "Cs" for char in string(value)):
        raise reject("has half of a character in it (a lone surrogate)")
    return str(value)


Text = Annotated[str, BeforeValidator(_parse_text)]
"""Text of any kind, line breaks included, that can be written as UTF-8."""


def _parse_line(value: Any) -> str:
    line = string(value)
    if has_control_characters(line):
        raise reject("has a line break or another control character in it", allowed="one line of text")
    return line


Line = Annotated[str, BeforeValidator(_parse_line)]
"""Text on one line; commas, quotes and everything else one can see are data."""


def matching(pattern: str, *, kind: str, allowed: str) -> Callable[[Any], str]:
    """A validator for text that matches `pattern` as a whole; `kind` names what other text is not."""

    def parse(value: Any) -> str:
        # Compiled when first needed: most specs need few of the patterns, and every start would pay for all.
        if not re.fullmatch(pattern, string(value)):
            raise reject(f"is not {kind}", allowed=allowed)
        return str(value)

    return parse


MachineName = Annotated[
    str,
    BeforeValidator(matching(NAME, kind="a machine's name", allowed=NAME_ALLOWED)),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"}),
]
"""A machine's name: it names directories and is QEMU's ``-name``."""

ImageName = Annotated[
    str,
    BeforeValidator(matching(NAME, kind="an image's name", allowed=NAME_ALLOWED)),
    WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"}),
]
"""What an image is called in the store: as machines are, since an image's name stands for a machine of it."""

_ID: Final = r"[a-z][a-z0-9_-]{0,23}"
_ID_ALLOWED: Final = "1 to 24 lower-case letters, digits, '_' and '-', beginning with a letter"

Id = Annotated[
    str,
    BeforeValidator(matching(_ID, kind="an id", allowed=_ID_ALLOWED)),
    WithJsonSchema({"type": "string", "pattern": f"^{_ID}$"}),
]
"""A device's id in QEMU; short, because QEMU's block nodes are named after it and may have 31 characters."""

_UUID: Final = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

Uuid = Annotated[
    str,
    BeforeValidator(matching(_UUID, kind="a UUID", allowed="like '6ba7b810-9dad-41d1-80b4-00c04fd430c8'")),
    AfterValidator(str.lower),
    WithJsonSchema({"type": "string", "format": "uuid"}),
]
"""A UUID in lower case."""

_VARIABLE: Final = r"[A-Za-z_][A-Za-z0-9_]*"

Variable = Annotated[
    str,
    BeforeValidator(
        matching(_VARIABLE, kind="an environment variable's name", allowed="letters, digits and '_', not first a digit")
    ),
    WithJsonSchema({"type": "string", "pattern": f"^{_VARIABLE}$"}),
]
"""The name of an environment variable."""
