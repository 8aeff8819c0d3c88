"""Public keys of ssh, as far as one can tell by looking at them."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from typing import Final

_KEY: Final = (
    r"(?:.*\s)?(?P<type>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)[ \t]+(?P<blob>[A-Za-z0-9+/]{20,}={0,2})(?:[ \t].*)?"
)
"""A line of ``authorized_keys`` (sshd(8)): options, type, key, comment."""
_TYPES: Final = ("ssh-", "ecdsa-", "sk-")
_PRIVATE: Final = "PRIVATE KEY-----"
ALLOWED: Final = "the one line of a file that ends in .pub, like 'ssh-ed25519 AAAA... me@here'"


def looks_like_key(text: str) -> bool:
    """Whether `text` is meant to be a key, and not the path of one."""
    return text.startswith(_TYPES) or _PRIVATE in text or re.fullmatch(_KEY, text.strip()) is not None


def key_problem(text: str) -> str:
    """What is wrong with `text`, lines of ``authorized_keys``; empty where nothing is."""
    if _PRIVATE in text:
        return "is a private key, which no guest may ever see"
    lines = list(key_lines(text))
    if not lines:
        return "has no public key in it"
    return next(("is not a public key" for line in lines if not _is_key(line)), "")


def key_lines(text: str) -> Iterator[str]:
    """The lines of `text` that hold keys: neither empty nor a comment."""
    yield from (line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def _is_key(line: str) -> bool:
    match = re.fullmatch(_KEY, line)
    if match is None:
        return False
    try:
        blob = b64decode(match["blob"], validate=True)
    except Error:
        return False
    # A key begins with its own type, four bytes of length before it (RFC 4253, section 6.6).
    name = match["type"].encode()
    return blob.startswith(len(name).to_bytes(4, "big") + name)
