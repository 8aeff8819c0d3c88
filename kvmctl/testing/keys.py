"""The keys of a keyboard: from characters, and from the names people use, to QEMU's (QKeyCode in qapi/ui.json)."""

from __future__ import annotations

from typing import Final

from kvmctl.errors import KvmctlError

_NAMES: Final = {
    " ": "spc", "\n": "ret", "\t": "tab", "\b": "backspace", "\x1b": "esc",
    "-": "minus", "=": "equal", "[": "bracket_left", "]": "bracket_right", ";": "semicolon", "'": "apostrophe",
    "`": "grave_accent", "\\": "backslash", ",": "comma", ".": "dot", "/": "slash",
}  # fmt: skip
_SHIFTED: Final = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_USUAL: Final = {"enter": "ret", "return": "ret", "space": "spc", "escape": "esc", "control": "ctrl", "del": "delete"}


def keys_of(character: str) -> list[str]:
    """The keys that are pressed together for a character on a US keyboard. Raises KvmctlError where there are none."""
    if character in _SHIFTED:
        return ["shift", *keys_of(_SHIFTED[character])]
    if character in _NAMES:
        return [_NAMES[character]]
    if character.isascii() and character.isalnum():
        return ["shift", character.lower()] if character.isupper() else [character]
    raise KvmctlError(f"{character!r} is not on a US keyboard", hint="Send it on the serial console: send_console")


def chord(text: str) -> list[str]:
    """The keys of ``ctrl-alt-delete``, ``ret``, ``a``; QEMU knows which there are."""
    if len(text) == 1:
        return keys_of(text)
    return [_USUAL.get(word, word) for word in text.split("-")]
