"""The only printer: data to stdout, talk to stderr. Every verb prints through these functions.

Tables are for people and may change; JSON is a contract: the key ``schema`` counts its incompatible changes, sizes are
bytes, times are RFC 3339 in UTC. Colour is for terminals only, and for none when ``NO_COLOR`` or ``CI`` is set or
``TERM`` is ``dumb``. Everything is flushed as it is printed, so that a reader that follows sees it at once, and one
that went away is noticed here and nowhere else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, NamedTuple, NoReturn, TextIO, TypeAlias

from kvmctl import KvmctlError

if TYPE_CHECKING:
    from datetime import datetime

SCHEMA: Final = 1
"""Raised when a reader of the JSON of an older kvmctl would misread it."""

Colour: TypeAlias = Literal["red", "green", "yellow", "cyan", "dim", "bold"]

_CODES: Final[dict[Colour, int]] = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "dim": 2, "bold": 1}
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Column(NamedTuple):
    """A column of a table: its heading, its alignment, and the colour of some of its words."""

    title: str
    right: bool = False
    colours: Mapping[str, Colour] = {}


def prepare() -> None:
    """Make the streams take any text: what they can't encode is escaped instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def emit(text: str) -> None:
    """Print `text` and a newline on stdout."""
    _write(sys.stdout, f"{text}\n")


def emit_bytes(data: bytes) -> None:
    """Pass `data` on to stdout as it is: what a guest wrote."""
    _write_bytes(sys.stdout.buffer, data)


def say(message: str) -> None:
    """Tell the person at the terminal something, on stderr."""
    _write(sys.stderr, f"{printable(message)}\n")


def redraw(line: str) -> None:
    """Put `line` in place of the line that the cursor is on, on stderr: for what is drawn over and over."""
    _write(sys.stderr, f"\r\x1b[K{printable(line)}")


def say_bytes(data: bytes) -> None:
    """Pass `data` on to stderr as it is: what a guest's program wrote there."""
    _write_bytes(sys.stderr.buffer, data)


def warn(message: str) -> None:
    """Tell of something that may not be what was meant, on stderr."""
    say_marked("warning", message, colour="yellow")


def fail(error: KvmctlError) -> None:
    """Tell of `error` on stderr: what happened, the evidence, what to do next."""
    say_marked("error", error.summary, colour="red")
    if error.detail:
        say(error.detail.rstrip("\n"))
    for line in error.verdict_lines():
        say(line)
    hint(error)


def hint(error: KvmctlError) -> None:
    """Tell what to do about `error`, if that is known."""
    known = error.hint or (error.verdict.hint if error.verdict is not None else "")
    if known:
        say_marked("hint", known, colour="cyan")


def say_marked(mark: str, message: str, *, colour: Colour) -> None:
    """``mark: message`` on stderr, the mark in `colour`."""
    _write(sys.stderr, f"{paint(f'{mark}:', colour, stream=sys.stderr)} {printable(message)}\n")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print `rows` under their headings, aligned and without borders."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(len(line[index]) for line in [_titles(columns), *cells]) for index in range(len(columns))]
    lines = [_line(_titles(columns), columns, widths)]
    lines += [_line(row, columns, widths) for row in cells]
    emit("\n".join(lines))


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print keys with their values; a key that repeats the one before is left out."""
    found = [(key, printable(value).replace("\n", " ")) for key, value in pairs]
    width = max(len(key) for key, _ in found) + 1
    before = ""
    for key, value in found:
        head = "" if key in {"", before} else f"{key}:"
        emit(f"{head:{width}}  {value}".rstrip())
        before = key


def print_json(document: Mapping[str, object]) -> None:
    """Print `document` as JSON, with the schema's version in front."""
    emit(json.dumps({"schema": SCHEMA, **_spelled(document)}, indent=2, default=_plain))


def print_json_line(record: Mapping[str, object]) -> None:
    """Print `record` as one line of a JSON stream."""
    emit(json.dumps({"schema": SCHEMA, **_spelled(record)}, separators=(",", ":"), default=_plain))


def print_reply(value: object) -> None:
    """Print what QEMU answered, as JSON that is QEMU's and not ours."""
    emit(json.dumps(value, indent=2))


def is_fancy(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that wants colour and progress bars."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def paint(text: str, colour: Colour, *, stream: TextIO) -> str:
    """`text` in `colour` where `stream` takes any."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if is_fancy(stream) else text


def printable(text: str) -> str:
    """`text` with control characters spelled out: what a guest or a log says must not drive the terminal."""
    return text.translate(_CONTROL)


def size(count: int) -> str:
    """`count` bytes for people: ``512 MiB``, ``1.5 GiB``."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"


def duration(seconds: float) -> str:
    """`seconds` for people, to two units: ``4s``, ``2m 5s``, ``3d 1h``."""
    left, parts = max(0, int(seconds)), []  # below 0 where the clock was set back
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, length)
        if amount:
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2]) or "0s"


def rfc3339(moment: datetime) -> str:
    """`moment`, which knows its zone, in UTC to the millisecond: ``2026-01-31T23:59:59.000Z``."""
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment.timestamp()))
    return f"{seconds}.{moment.microsecond // 1000:03}Z"


def _titles(columns: Sequence[Column]) -> list[str]:
    return [column.title for column in columns]


def _line(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    words = []
    for cell, column, width in zip(row, columns, widths, strict=True):
        colour = column.colours.get(cell)
        word = paint(cell, colour, stream=sys.stdout) if colour else cell
        padding = " " * (width - len(cell))
        words.append(padding + word if column.right else word + padding)
    return "  ".join(words).rstrip()


def _spelled(value: Any) -> Any:
    """`value` with named tuples as mappings of what they say: JSON would take them for lists."""
    match value:
        case Mapping():
            return {key: _spelled(item) for key, item in value.items()}
        case _ if names := getattr(value, "_fields", None):
            return {name: _spelled(getattr(value, name)) for name in names}
        case list() | tuple():
            return [_spelled(item) for item in value]
        case _:
            return value


def _plain(value: Any) -> object:
    match value:
        case _ if hasattr(value, "astimezone"):
            return rfc3339(value)
        case Mapping():
            return dict(value)
        case frozenset() | set():
            return sorted(value)
        case os.PathLike():
            return os.fspath(value)
        case _ if names := getattr(value, "__dataclass_fields__", None):  # `dataclasses` takes its time to import
            return {name: _spelled(getattr(value, name)) for name in names}
        case _:
            message = f"no JSON form for {type(value).__name__}"
            raise TypeError(message)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        _leave(stream)


def _write_bytes(stream: BinaryIO, data: bytes) -> None:
    try:
        stream.write(data)
        stream.flush()
    except BrokenPipeError:
        _leave(stream)


def _leave(stream: TextIO | BinaryIO) -> NoReturn:
    """End as a program does that SIGPIPE kills. Python flushes its streams at exit, so they need somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(128 + 13)
