"""Publishers' checksum files, in every form that they come in. Pure.

::

    0f3c...  debian-12-genericcloud-amd64.qcow2           GNU, a star before the name for binary (Debian, Ubuntu, Arch)
    SHA256 (Rocky-9-GenericCloud.qcow2) = 0f3c...         BSD (Fedora, Rocky, FreeBSD), often within a PGP signature
    0f3c...                                               one file's, beside it (Alpine)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias

Algorithm: TypeAlias = Literal["sha256", "sha512"]

_DIGITS: Final[dict[int, Algorithm]] = {64: "sha256", 128: "sha512"}
"""The algorithm by the number of a digest's hexadecimal digits; weaker ones are not looked at."""
_GNU: Final = re.compile(r"\\?([0-9a-fA-F]{64,128})(?:[ \t]+\*?(?:\./)?(.+?))?\s*")
_BSD: Final = re.compile(r"SHA(?:256|512) \((.+)\) = ([0-9a-fA-F]{64,128})\s*")


@dataclass(frozen=True, slots=True)
class Digest:
    """A checksum: the algorithm and the hexadecimal digits in lower case."""

    algorithm: Algorithm
    digits: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digits}"

    @classmethod
    def of(cls, digits: str) -> Self | None:
        """The checksum with these digits; None where no algorithm has as many."""
        algorithm = _DIGITS.get(len(digits))
        is_hex = re.fullmatch(r"[0-9a-fA-F]+", digits) is not None
        return cls(algorithm, digits.lower()) if algorithm and is_hex else None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The checksum written as ``sha256:...``; None where it is none."""
        algorithm, _, digits = text.partition(":")
        digest = cls.of(digits)
        return digest if digest and digest.algorithm == algorithm.lower() else None


def find_digest(text: str, name: str, *, is_of_one: bool = False) -> Digest | None:
    """The strongest checksum of the file `name` in the text of a checksum file; None where it has none.

    A file `is_of_one` that lies beside the image it is of, whatever it calls that: openSUSE's names the snapshot.
    """
    found = list(_digests(text))
    of_name = [digest for called, digest in found if called == name]
    if not of_name and is_of_one and len(found) == 1:
        of_name = [digest for _, digest in found]
    return max(of_name, key=lambda digest: len(digest.digits), default=None)


def _digests(text: str) -> Iterator[tuple[str | None, Digest]]:
    """Every checksum with the name it is for; None for the one that stands alone."""
    for line in text.splitlines():
        if match := _BSD.fullmatch(line):
            called, digits = match.groups()
        elif match := _GNU.fullmatch(line):
            digits, called = match.groups()
        else:
            continue
        if digest := Digest.of(digits):
            yield called, digest
