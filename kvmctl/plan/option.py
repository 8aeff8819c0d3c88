"""QEMU command-line options as values, and the one place that writes them in QEMU's syntax.

An option keeps its structure until `render`: a comma in a path, an equals sign in a name, or a newline in a
description is data and can never become another option. QEMU has four forms:

* bare (``-nodefaults``),
* one verbatim argument (``-kernel /boot/vmlinuz``),
* key=value lists in which commas are doubled (``-machine pc-q35-7.2,accel=tcg``),
* JSON, whose mapping is the one QMP takes for hot-plug (``-device {"driver": ...}``).

A descriptor that QEMU inherits has no number yet while the plan is made: it is an `Fd`, and `render` is told the
numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class Fd(NamedTuple):
    """An inherited descriptor, by the name it has in the plan; written as ``prefix`` followed by its number."""

    name: str
    prefix: str = ""


class Fds(NamedTuple):
    """Several inherited descriptors in one value, written as QEMU's colon-separated list (``fds=7:8``)."""

    names: tuple[str, ...]


Scalar: TypeAlias = str | int | float | bool | None | Fd | Fds
Value: TypeAlias = "Scalar | Sequence[Value] | Mapping[str, Value]"


class Form(StrEnum):
    """How an option's body is written."""

    BARE = "bare"
    TEXT = "text"
    KEYVAL = "keyval"
    JSON = "json"


class Option(NamedTuple):
    """One ``-flag body`` of a QEMU command line.

    `why` is the spec key that put it there (``disks[0].cache``), or ``default: `` and the reason.
    `reasons` has those of single parameters where they are others: for one key each, in options that gather several.
    `lead` is the leading positional word of a key=value list (``socket`` in ``-chardev socket,id=...``).
    """

    flag: str
    form: Form
    why: str
    text: str = ""
    lead: str | Fd | None = None
    body: Mapping[str, Value] = {}
    reasons: Mapping[str, str] = {}


class Parameter(NamedTuple):
    """The value of one parameter of an option, and why it has it."""

    value: Value
    why: str


def bare(flag: str, *, why: str) -> Option:
    """``-flag``."""
    return Option(flag, Form.BARE, why)


def text(flag: str, value: str, *, why: str) -> Option:
    """``-flag VALUE`` for the flags that take one verbatim argument (``-kernel``, ``-append``)."""
    return Option(flag, Form.TEXT, why, text=value)


def keyval(flag: str, lead: str | Fd | None = None, /, *, why: str, **body: Value) -> Option:
    """``-flag lead,key=value,...``; in keyword names ``_`` stands for ``-`` (``logfile_append``)."""
    return Option(flag, Form.KEYVAL, why, lead=lead, body={key.replace("_", "-"): item for key, item in body.items()})


def keyvals(flag: str, lead: str | Fd | None, body: Mapping[str, Value], *, why: str) -> Option:
    """`keyval` with the keys given as they are."""
    return Option(flag, Form.KEYVAL, why, lead=lead, body=dict(body))


def gathered(flag: str, parameters: Mapping[str, Parameter], *, lead: str | None = None, why: str = "") -> Option:
    """`keyvals` of parameters that are there for different reasons; `why` is that of the `lead`."""
    body = {name: parameter.value for name, parameter in parameters.items()}
    reasons = {name: parameter.why for name, parameter in parameters.items()}
    return Option(flag, Form.KEYVAL, why or next(iter(reasons.values())), lead=lead, body=body, reasons=reasons)


def jsonopt(flag: str, body: Mapping[str, Value], *, why: str, reasons: Mapping[str, str] = {}) -> Option:
    """``-flag {...}`` for the flags that take JSON: device, blockdev, netdev, object, audiodev, display."""
    return Option(flag, Form.JSON, why, body=dict(body), reasons=reasons)


def explanation(option: Option) -> list[str]:
    """Why `option` is there, a line each reason; where it has several, with the parameters that have it."""
    named: dict[str, list[str]] = {}
    for name, reason in option.reasons.items():
        named.setdefault(reason, []).append(name)
    lines = [f"{', '.join(names)}: {reason}" for reason, names in named.items()]
    is_all_named = option.lead is None and option.reasons.keys() >= option.body.keys() > set()
    return lines if is_all_named and len(lines) > 1 else [option.why, *(lines if not is_all_named else ())]


def descriptor_names(value: Value) -> Iterator[str]:
    """The names of the descriptors in a value, however deep."""
    match value:
        case Fd(name):
            yield name
        case Fds(names):
            yield from names
        case list() | tuple() | Mapping():
            for item in value.values() if isinstance(value, Mapping) else value:
                if not isinstance(item, str | int | None):  # most are, and to go into them takes its time
                    yield from descriptor_names(item)


def render(options: Iterable[Option], fds: Mapping[str, int | str]) -> list[str]:
    """The arguments after the binary, in order; `fds` says what is written for each descriptor: its number."""
    return [word for option in options for word in render_option(option, fds)]


def render_option(option: Option, fds: Mapping[str, int | str]) -> list[str]:
    """One option as its one or two words."""
    flag = f"-{option.flag}"
    match option.form:
        case Form.BARE:
            return [flag]
        case Form.TEXT:
            return [flag, option.text]
        case Form.KEYVAL:
            return [flag, _keyval_words(option, fds)]
        case Form.JSON:
            return [flag, json.dumps(resolve(option.body, fds), separators=(",", ":"), ensure_ascii=False)]


def resolve(value: Value, fds: Mapping[str, int | str]) -> Value:
    """`value` with every descriptor replaced by its number, as QEMU's JSON takes it (a string)."""
    match value:
        case Fd() | Fds():
            return _scalar(value, fds)
        case Mapping():
            return {key: resolve(item, fds) for key, item in value.items()}
        case list() | tuple():
            return [resolve(item, fds) for item in value]
        case _:
            return value


def _keyval_words(option: Option, fds: Mapping[str, int | str]) -> str:
    words = [] if option.lead is None else [_escape(_scalar(option.lead, fds))]
    for key, value in flatten(option.body):
        words.append(f"{key}={_escape(_scalar(value, fds))}")
    return ",".join(words)


def flatten(body: Mapping[str, Value], prefix: str = "") -> list[tuple[str, Scalar]]:
    """Nested mappings and lists as QEMU's dotted keys: ``{"addr": {"type": "unix"}}`` is ``addr.type=unix``."""
    pairs: list[tuple[str, Scalar]] = []
    for key, value in body.items():
        match value:
            case Mapping():
                pairs += flatten(value, f"{prefix}{key}.")
            case Fd() | Fds():
                pairs.append((f"{prefix}{key}", value))
            case list() | tuple():
                pairs += flatten({str(index): item for index, item in enumerate(value)}, f"{prefix}{key}.")
            case _:
                pairs.append((f"{prefix}{key}", value))  # type: ignore[arg-type]
    return pairs


def _escape(word: str) -> str:
    return word.replace(",", ",,")


def _scalar(value: Scalar, fds: Mapping[str, int | str]) -> str:
    match value:
        case Fd(name, prefix):
            return f"{prefix}{fds[name]}"
        case Fds(names):
            return ":".join(str(fds[name]) for name in names)
        case bool():
            return "on" if value else "off"
        case None:
            return ""
        case _:
            return str(value)


_FD_KEY = "$fd"
_FDS_KEY = "$fds"


def to_json(option: Option) -> dict[str, object]:
    """`option` as plain JSON values; `from_json` reads them back."""
    record: dict[str, object] = {"flag": option.flag, "form": option.form.value, "why": option.why}
    if option.text:
        record["text"] = option.text
    if option.lead is not None:
        record["lead"] = _map(option.lead, _freeze)
    if option.body:
        record["body"] = _map(option.body, _freeze)
    if option.reasons:
        record["reasons"] = dict(option.reasons)
    return record


def from_json(record: Mapping[str, object]) -> Option:
    """The option that `to_json` wrote."""
    return Option(
        flag=str(record["flag"]),
        form=Form(str(record["form"])),
        why=str(record["why"]),
        text=str(record.get("text", "")),
        lead=_thaw(record.get("lead")),  # type: ignore[arg-type]
        body=_thaw(record.get("body", {})),  # type: ignore[arg-type]
        reasons=record.get("reasons", {}),  # type: ignore[arg-type]
    )


def _map(value: Value, leaf: Callable[[Scalar], object]) -> object:
    match value:
        case Mapping():
            return {key: _map(item, leaf) for key, item in value.items()}
        case Fd() | Fds():
            return leaf(value)
        case list() | tuple():
            return [_map(item, leaf) for item in value]
        case _:
            return leaf(value)  # type: ignore[arg-type]


def _freeze(value: Scalar) -> object:
    match value:
        case Fd(name, prefix):
            return {_FD_KEY: name, "prefix": prefix}
        case Fds(names):
            return {_FDS_KEY: list(names)}
        case _:
            return value


def _thaw(value: object) -> object:
    match value:
        case {"$fd": name, "prefix": prefix}:
            return Fd(str(name), str(prefix))
        case {"$fds": [*names]}:
            return Fds(tuple(str(name) for name in names))
        case Mapping():
            return {key: _thaw(item) for key, item in value.items()}
        case list():
            return [_thaw(item) for item in value]
        case _:
            return value
