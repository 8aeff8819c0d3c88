"""From a file to a `Machine`. `parse` is pure; `load` reads exactly one file and is the only I/O of this package."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import tomlkit

from kvmctl.errors import NotFound, Problem, SpecError, StateError
from kvmctl.spec import reading
from kvmctl.spec.machine import Machine
from kvmctl.spec.reading import Reading

Format: TypeAlias = Literal["toml", "json"]

MAX_BYTES: Final = 1 << 20
"""No spec is this large; a device or a disk image taken for one is."""


def load(path: str | Path) -> Machine:
    """The machine in the file `path`: JSON when it ends in ``.json``, TOML otherwise.

    Raises NotFound when there is no such file, StateError when it can't be read, SpecError with every problem in it.
    """
    return read_file(path).settled()


def read_file(path: str | Path) -> Reading:
    """What the spec in the file `path` says, as far as it can be read. Raises NotFound and StateError as `load`, and
    SpecError for what is no table at all."""
    file = Path(path).absolute()
    return read(read_text(path), source=str(path), base=str(file.parent), format=format_of(file))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """What is written in the file `path`, for `from_mapping` to judge. Raises NotFound, StateError, SpecError."""
    return _read(read_text(path), source=str(path), format=format_of(path))


def read_text(path: str | Path) -> str:
    """The text of the spec in the file `path`. Raises NotFound, StateError, SpecError for what is no text."""
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no machine spec '{path}'", hint="kvmctl list --all shows defined machines") from None
    except OSError as error:
        raise StateError(f"the machine spec '{path}' can't be read", detail=error.strerror or str(error)) from error
    return _decoded(content, source=str(path))


def format_of(file: str | Path) -> Format:
    """What a spec in a file of that name is written in."""
    return "json" if Path(file).suffix == ".json" else "toml"


def _decoded(content: bytes, *, source: str) -> str:
    if len(content) > MAX_BYTES:
        raise SpecError(source, [Problem("", "is larger than 1MiB, which no machine spec is")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise SpecError(source, [Problem("", f"is not UTF-8 text (byte {error.start})")]) from None


def parse(text: str, *, source: str, base: str, format: Format = "toml") -> Machine:  # noqa: A002
    """The machine that `text` describes; relative host paths count from the directory `base`.

    Raises SpecError with every problem at once.
    """
    return read(text, source=source, base=base, format=format).settled()


def read(text: str, *, source: str, base: str, format: Format = "toml") -> Reading:  # noqa: A002
    """What `text` says, as far as it can be read. Raises SpecError for what is no table at all."""
    return reading.read_mapping(_read(text, source=source, format=format), source=source, base=base)


def from_mapping(spec: Mapping[str, Any], *, source: str, base: str) -> Machine:
    """The machine that a mapping describes, as `parse`."""
    return reading.read_mapping(spec, source=source, base=base).settled()


_TOML_PLACE: Final = r"(?s)(.*) \(at (?:line (\d+), column (\d+)|end of document)\)"


def _read(text: str, *, source: str, format: Format) -> dict[str, Any]:  # noqa: A002
    try:
        return tomllib.loads(text) if format == "toml" else _read_json(text)
    except tomllib.TOMLDecodeError as error:
        match = re.fullmatch(_TOML_PLACE, str(error))
        message, line, column = match.groups() if match else (str(error), None, None)
        place = f"line {line}, column {column}" if line else "the end of the file"
        problem = Problem("", f"is not TOML at {place}: {message[:1].lower()}{message[1:]}")
    except json.JSONDecodeError as error:
        problem = Problem("", f"is not JSON at line {error.lineno}, column {error.colno}: {error.msg.lower()}")
    except RecursionError:
        problem = Problem("", "is nested too deeply")
    except ValueError as error:
        problem = Problem("", str(error))
    raise SpecError(source, [problem])


def _read_json(text: str) -> dict[str, Any]:
    value = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(value, dict):
        message = "is JSON, but no object"
        raise ValueError(message)  # noqa: TRY004  # told as a problem of the spec, like every other
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        message = f"has the key '{twice}' twice in one object"
        raise ValueError(message)
    return record


def schema() -> dict[str, Any]:
    """The JSON Schema of a spec, for editors and for the manual."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kvmctl machine",
        **Machine.model_json_schema(),
    }


def absolute_text(text: str, base: str, *, format: Format = "toml") -> str:  # noqa: A002
    """The spec `text` as TOML with its relative host paths counted from the directory `base`; all else, comments
    included, stays as it is.

    Raises SpecError when `text` is no right spec.
    """
    machine = parse(text, source="spec", base=base, format=format)
    document = tomlkit.parse(text if format == "toml" else tomlkit.dumps(_without_nulls(_read_json(text))))
    _make_absolute(document, machine)
    return tomlkit.dumps(document)


def _without_nulls(value: Any) -> Any:
    """A JSON value without the keys that are null, which TOML has no word for and which mean the same left out."""
    match value:
        case dict():
            return {key: _without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [_without_nulls(item) for item in value]
        case _:
            return value


def _make_absolute(table: MutableMapping[str, Any], read: Any) -> None:
    """Replace the texts in `table` that reading has made into absolute paths: no other text begins with a slash."""
    for key, written in table.items():
        value: Any = read[key] if isinstance(read, Mapping) else getattr(read, key)
        if isinstance(written, str) and isinstance(value, str):
            if value.startswith("/") and value != written:
                table[key] = value
        elif isinstance(written, MutableMapping):
            _make_absolute(written, value)
        elif isinstance(written, list):
            for index, (item, of_value) in enumerate(zip(written, value, strict=True)):
                if isinstance(item, MutableMapping):
                    _make_absolute(item, of_value)
                elif isinstance(item, str) and str(of_value).startswith("/") and of_value != item:
                    written[index] = of_value
