"""What a command in the guest is told by: its words, which must be such that it can be given them, and its mark.

May import errors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from kvmctl.errors import AgentError

STDIN_MAX: Final = 32 << 20
"""Bytes of input a command can be given: it goes in one request, and the agent's parser takes 64 MiB."""


def make_mark() -> str:
    """A name that nothing else in the guest has."""
    return f"kvmctl-{os.urandom(16).hex()}"


def check_command(argv: Sequence[str], *, stdin: bytes | bytearray = b"") -> None:
    """Raises AgentError for a command that no agent could be given."""
    if isinstance(argv, str):  # which is a sequence of words of one letter
        raise AgentError(f"{argv!r} is one word, and a command is a list of them", hint=f'["sh", "-c", {argv!r}]')
    if not argv or not argv[0]:
        raise AgentError("no command was given")
    for word in argv:
        if "\0" in word or not _is_unicode(word):
            raise AgentError(f"{word!r} can't be a word of a command: it must be UTF-8 and have no zero bytes")
    if len(stdin) > STDIN_MAX:
        raise AgentError(f"{len(stdin)} bytes of input are more than the {STDIN_MAX} a command can be given")


def _is_unicode(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
