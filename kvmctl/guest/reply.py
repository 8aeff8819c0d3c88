"""The guest agent's replies, from bytes that a guest may have made up to values of the type that was expected."""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Mapping
from typing import Any, TypeVar

from kvmctl.errors import AgentError

_T = TypeVar("_T", bound=int | str)

_ITEMS_MAX = 200_000
"""Commas in a reply. Parsed, ``[],[],[]`` takes twenty times its length in memory; no reply has this many values."""
_QUOTED_MAX = 300
_INT_MAX = 1 << 64
"""No number of the protocol is larger, and Python's would be as large as the reply is long."""
_FORBIDDEN = "The agent in the guest is too old for it, or its configuration forbids it (block-rpcs, blacklist)."


def parse_reply(line: bytes, *, command: str) -> Any:
    """What the agent returned. Raises AgentError for its error replies, and for what is no reply."""
    try:
        reply = _load(line)
    except (ValueError, RecursionError) as error:
        raise AgentError(f"the guest agent answered {command!r} with nonsense", detail=quote(line)) from error
    match reply:
        case {"return": result}:
            return result
        case {"error": {"class": str(error_class), "desc": str(description)}}:
            raise AgentError(
                f"the guest agent refused {command!r}: {printable(description)}",
                hint=_FORBIDDEN if error_class == "CommandNotFound" else "",
                error_class=printable(error_class),
            )
        case _:
            raise AgentError(f"the guest agent answered {command!r} with nonsense", detail=quote(line))


def find_sync_id(line: bytes) -> int | None:
    """The number in a reply to ``guest-sync-delimited``; None where it is something else."""
    try:
        reply = _load(line)
    except (ValueError, RecursionError):
        return None
    match reply:
        case {"return": int(number)}:
            return number
        case _:
            return None


def take(reply: object, key: str, kind: type[_T], default: _T | None = None) -> _T:
    """The member `key` of a reply, of type `kind`. Raises AgentError where it is missing, without a default, or not."""
    value = reply.get(key, default) if isinstance(reply, Mapping) else None
    # A bool is an int to Python, and `"exitcode": true` is nonsense all the same.
    is_other_kind = isinstance(value, bool) and kind is not bool
    is_absurd = isinstance(value, int) and not -_INT_MAX <= value <= _INT_MAX
    if not isinstance(value, kind) or is_other_kind or is_absurd:
        summary = f"the guest agent's reply has no {key!r} of type {kind.__name__}"
        raise AgentError(summary, detail=quote(repr(reply).encode()))
    return value


def take_bytes(reply: object, key: str) -> bytes:
    """The base64 member `key` of a reply, decoded; nothing where it is missing. Raises AgentError."""
    text = take(reply, key, str, "")
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise AgentError(f"the guest agent's {key!r} is not base64", detail=quote(text.encode())) from error


def quote(data: bytes) -> str:
    """`data` for an error's detail: printable, and cut."""
    more = f" … ({len(data)} bytes)" if len(data) > _QUOTED_MAX else ""
    return repr(data[:_QUOTED_MAX])[1:] + more


def _load(line: bytes) -> object:
    if line.count(b",") > _ITEMS_MAX:
        message = "too many values"
        raise ValueError(message)
    value: object = json.loads(line)
    return value


def printable(text: str) -> str:
    """A guest's words, cut, without what would drive a terminal."""
    return "".join(char if char.isprintable() else "�" for char in text[:_QUOTED_MAX])
