"""A download as far as it has come: its bytes in one file, what they are the beginning of in another beside it.

It outlives the process that downloads, and the next one goes on where it broke off. Of a file that a digest vouches
for, any bytes will do that make up that digest. Of others only the server can say whether the rest still belongs to
the beginning, by its ETag; and after a power cut nobody can say whether the beginning is what was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any, Self

from kvmctl import files
from kvmctl.errors import StateError
from kvmctl.image import storage
from kvmctl.image.checksums import Digest

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(slots=True)
class Partial:
    """The beginning of a download, open for more; use it as a context manager."""

    path: str
    expected: Digest | None
    size: int = 0
    validator: str | None = None
    total: int | None = None
    """Bytes of the whole, as far as a server said."""
    answers: int = 0
    """How many answers of servers it is made up of."""
    _file: int = -1
    _sums: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        files.make_private_dir(os.path.dirname(self.path))
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.fchmod(self._file, 0o600)
            if self._is_ours():
                self._read_on()
            else:
                self.restart()
        except OSError as error:
            raise files.cannot("open", self.path, error) from error
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    @property
    def sha256(self) -> str:
        """The SHA-256 of what is there."""
        return str(self._sums["sha256"].hexdigest())

    @property
    def is_right(self) -> bool:
        """Whether what is there is what was expected, as far as anything was."""
        return self.expected is None or self._sums[self.expected.algorithm].hexdigest() == self.expected.digits

    @property
    def digest(self) -> str:
        """What is there, by the algorithm of what was expected."""
        algorithm = "sha256" if self.expected is None else self.expected.algorithm
        return f"{algorithm}:{self._sums[algorithm].hexdigest()}"

    def restart(self) -> None:
        """Forget what is there."""
        os.ftruncate(self._file, 0)
        self.size, self.validator, self.total, self.answers = 0, None, None, 0
        self._sums = _no_sums(self.expected)

    def note(self, *, validator: str | None, total: int | None) -> None:
        """Remember what the server said of the whole, for whoever goes on. Raises StateError."""
        self.validator, self.total = validator, total
        self.answers += 1
        record = {**self._kind(), "validator": validator, "total": total}
        files.write_atomic(f"{self.path}.json", json.dumps(record).encode())

    def write(self, piece: bytes) -> None:
        """Append `piece`. Raises StateError."""
        try:
            view = memoryview(piece)
            while view:
                written = os.pwrite(self._file, view, self.size)
                for one in self._sums.values():
                    one.update(view[:written])
                self.size += written
                view = view[written:]
        except OSError as error:
            raise files.cannot("write", self.path, error) from error

    def remove(self) -> None:
        """Leave nothing of it."""
        for path in (self.path, f"{self.path}.json"):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def _kind(self) -> Mapping[str, Any]:
        """What must be the same for the bytes to be of any use."""
        if self.expected is not None:
            return {"expected": str(self.expected)}
        return {"expected": None, "boot": Path(_BOOT_ID).read_text(encoding="ascii").strip()}

    def _is_ours(self) -> bool:
        try:
            record = json.loads(Path(f"{self.path}.json").read_bytes())
        except (OSError, ValueError):
            return False
        if not isinstance(record, dict) or any(record.get(key) != value for key, value in self._kind().items()):
            return False
        self.validator, self.total = record.get("validator"), record.get("total")
        return self.expected is not None or self.validator is not None

    def _read_on(self) -> None:
        """Take up what is there into the sums."""
        self._sums = _no_sums(self.expected)
        while piece := os.pread(self._file, 1 << 20, self.size):
            for one in self._sums.values():
                one.update(piece)
            self.size += len(piece)
        self.answers = 1 if self.size else 0


def _no_sums(expected: Digest | None) -> dict[str, Any]:
    """SHA-256 is what the store knows images by, whatever the publisher uses."""
    sums: dict[str, Any] = {"sha256": sha256()}
    if expected is not None and expected.algorithm == "sha512":
        sums["sha512"] = sha512()
    return sums


def check_room(path: str, needed: int, *, name: str) -> None:
    """Raises StateError where there is less space than `needed` bytes for the file `path`."""
    free = storage.free_bytes(path)
    if needed > free:
        raise StateError(
            f"no space for the image {name!r}: {storage.mebibytes(needed)} are needed in "
            f"{os.path.dirname(path)!r}, and {storage.mebibytes(free)} are free",
            hint="Free some space, or point KVMCTL_CACHE_DIR and KVMCTL_STATE_DIR elsewhere.",
        )
