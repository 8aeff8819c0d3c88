"""Waits that are one command within the guest, which ends when what is waited for is so. Pure.

Each notes on its standard error what it sees, whenever that changes, for whoever gives up: see `Said`.
"""

from __future__ import annotations

from typing import Final

SAID_MAX: Final = 4000
"""Characters that are kept of what was seen."""
_COMMAND: Final = """
last=-
while :; do
    said=$(sh -c "$1" 2>&1 </dev/null; printf '\\n%s' "$?")
    code=${said##*
}
    said=${said%
*}
    [ "$code" "$2" 0 ] && { printf '%s' "$said"; exit 0; }
    [ "$code $said" = "$last" ] || {
        last="$code $said"
        printf 'exit code %s: %s\\n' "$code" "$(printf %s "$said" | tail -n 1)" >&2
    }
    sleep 0.2
done
"""
"""Nobody but the command knows when it will succeed."""
_FILE: Final = """
until [ -e "$1" ]; do sleep 0.1; done
"""


def until_succeeds(command: str, *, fails: bool = False) -> list[str]:
    """The command that waits until one of the shell succeeds (or `fails`), and prints what that printed."""
    return ["sh", "-c", _COMMAND, "kvmctl", command, "-ne" if fails else "-eq"]


def until_file(path: str) -> list[str]:
    """The command that waits until there is a file."""
    return ["sh", "-c", _FILE, "kvmctl", path]


class Said:
    """The last of what a wait has seen."""

    def __init__(self) -> None:
        self._text = ""

    def note(self, line: str) -> None:
        """It sees `line`."""
        self._text = f"{self._text}\n{line}"[-SAID_MAX:]

    def feed(self, data: bytes) -> None:
        """It has printed `data`."""
        self._text = f"{self._text}{text_of(data)}"[-SAID_MAX:]

    def __str__(self) -> str:
        seen = "\n".join(self._text.strip().splitlines()[-10:])
        return seen and f"last seen: {seen}"


def text_of(output: bytes) -> str:
    """What a command has printed, as text."""
    return output.decode(errors="replace")
