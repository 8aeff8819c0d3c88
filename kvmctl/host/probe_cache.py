"""What was learnt of QEMU binaries, and of those beside them, kept from one command to the next.

Two files a QEMU: its raw replies, and the facts derived from them, small enough that every command can read them.
Each holds the identity of the binary it describes; a file that is of another binary, of another kvmctl, or damaged,
is no file. A cache that can't be written costs time and nothing else.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.features import Feature

FORMAT: Final = 1
"""Raised when the questions change, or what the derived facts mean."""

_RULES: Final = [FORMAT, *sorted(Feature)]


@dataclass(frozen=True, slots=True)
class Entry:
    """The two files about the binary at `path`, which is `identity`, in `directory`."""

    directory: Path
    path: str
    identity: str

    def load_facts(self) -> QemuFacts | None:
        """The facts, if they are of this binary and were derived by the rules of this kvmctl."""
        record = self._load("facts", rules=_RULES)
        try:
            return QemuFacts.loads(record["facts"]) if record else None
        except (ValueError, KeyError):
            return None

    def load_replies(self) -> dict[str, Any] | None:
        """The raw replies, if they are of this binary."""
        record = self._load("replies", rules=[FORMAT])
        replies = record.get("replies") if record else None
        return replies if isinstance(replies, dict) else None

    def save(self, replies: Mapping[str, Any], facts: QemuFacts) -> None:
        """Keeps both, private to the user. Does nothing if the directory can't be written."""
        with suppress(OSError):
            _make_private(self.directory)
            self._save("replies", {"rules": [FORMAT], "replies": replies})
            self._save("facts", {"rules": _RULES, "facts": facts.dumps()})

    def load_help(self) -> str | None:
        """What the program at the path prints of itself, if it is of this binary."""
        record = self._load("help", rules=[FORMAT])
        text = record.get("help") if record else None
        return text if isinstance(text, str) else None

    def save_help(self, text: str) -> None:
        """Keeps what the program printed. Does nothing if the directory can't be written."""
        with suppress(OSError):
            _make_private(self.directory)
            self._save("help", {"rules": [FORMAT], "help": text})

    def _file(self, kind: str) -> Path:
        # Two paths of one name and sum would take turns: each is only ever read for the identity that it holds.
        path = os.fsencode(self.path)
        return self.directory / f"{Path(self.path).name}-{crc32(path):08x}.{kind}.json"

    def _load(self, kind: str, *, rules: list[Any]) -> dict[str, Any] | None:
        try:
            record = json.loads(self._file(kind).read_bytes())
        except (OSError, ValueError):
            return None
        is_ours = isinstance(record, dict) and record.get("identity") == self.identity
        return record if is_ours and record.get("rules") == rules else None

    def _save(self, kind: str, content: Mapping[str, Any]) -> None:
        descriptor, name = tempfile.mkstemp(dir=self.directory, prefix=f".{kind}.")
        temporary = Path(name)
        try:
            os.fchmod(descriptor, 0o600)  # a umask may have taken bits of ours away
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump({"identity": self.identity, **content}, file, separators=(",", ":"))
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._file(kind))
        except BaseException:
            temporary.unlink()
            raise


def _make_private(directory: Path) -> None:
    """Makes the directory and its missing parents, 0700 whatever the umask."""
    if not directory.is_dir():
        _make_private(directory.parent)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            directory.chmod(0o700)
