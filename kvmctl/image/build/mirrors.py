"""Where Debian's packages come from: what apt of this host says, turned into sources for an image. Pure.

No mirror is built in. An image gets its packages from where this host does, and is told to go on doing so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kvmctl.errors import HostError

FALLBACK_SUITE: Final = "bookworm"
"""Built where the host is no Debian release itself."""
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
"""Debian's own keys, of the package debian-archive-keyring, here as in the image."""

_ROLLING: Final = frozenset({"sid", "unstable"})
_SUITE: Final = re.compile(r"[a-z][a-z0-9-]*")

Kind: TypeAlias = Literal["main", "updates", "security", "other"]


@dataclass(frozen=True, slots=True)
class Repository:
    """One entry of apt's sources: where it is, which suite, and who made it, as its Release file says."""

    uri: str
    release: str
    origin: str
    label: str
    entry: str = ""
    """The file and number of the entry: ``/etc/apt/sources.list.d/debian.sources:1``."""

    @property
    def kind(self) -> Kind:
        """What it adds to a release."""
        if self.origin != "Debian":
            return "other"
        if self.label == "Debian-Security":
            return "security"
        if self.release.endswith("-updates"):
            return "updates"
        return "main" if "-" not in self.release else "other"


@dataclass(frozen=True, slots=True)
class Source:
    """Where packages of an image come from; `signed_by` is a keyring on this host."""

    uri: str
    suite: str
    signed_by: str

    @property
    def line(self) -> str:
        """As a line of sources.list(5), for this host."""
        return f"deb [signed-by={self.signed_by}] {self.uri} {self.suite} main"

    @property
    def stanza(self) -> str:
        """As a stanza of a ``.sources`` file, for the image."""
        return f"Types: deb\nURIs: {self.uri}\nSuites: {self.suite}\nComponents: main\nSigned-By: {KEYRING}\n"


def parse_targets(text: str) -> list[Repository]:
    """The repositories in what ``apt-get indextargets`` prints."""
    stanzas = (dict(line.partition(": ")[::2] for line in block.splitlines()) for block in text.split("\n\n"))
    return [
        Repository(
            uri=item["Repo-URI"],
            release=item["Release"],
            origin=item.get("Origin", ""),
            label=item.get("Label", ""),
            entry=item.get("Sourcesentry", ""),
        )
        for item in stanzas
        if "Repo-URI" in item and "Release" in item
    ]


def own_suite(os_release: Mapping[str, str]) -> str:
    """The suite that is built when none is named: the host's own where that is Debian's."""
    if os_release.get("ID") == "debian":
        return os_release.get("VERSION_CODENAME", FALLBACK_SUITE)
    return FALLBACK_SUITE


def check_suite(suite: str) -> str:
    """`suite` itself. Raises HostError for what can't be the name of one."""
    if not _SUITE.fullmatch(suite):
        raise HostError(f"{suite!r} is not the name of a Debian suite", hint="Name one such as bookworm or trixie.")
    return suite


def find_sources(
    repositories: Iterable[Repository],
    *,
    suite: str,
    mirror: str | None = None,
    keyring: str = KEYRING,
    keyrings: Mapping[str, str] | None = None,
) -> list[Source]:
    """The sources of `suite`: the host's with its own suite replaced, or `mirror` alone.

    `keyring` is Debian's on this host; `keyrings` has that of an entry of apt's sources where it names one. Raises
    HostError.
    """
    if mirror is not None:
        return [
            Source(mirror, name, keyring) for name in ([suite] if suite in _ROLLING else [suite, f"{suite}-updates"])
        ]
    known = {repository.kind: repository for repository in repositories}
    if "main" not in known:
        hint = "Name one with --mirror: the address of a directory that has 'dists' and 'pool' in it."
        raise HostError("apt of this host knows no mirror of Debian", hint=hint)
    suites: dict[Kind, str] = {"main": suite}
    if suite not in _ROLLING:
        suites |= {"updates": f"{suite}-updates", "security": f"{suite}-security"}
    return [
        Source(known[kind].uri, name, (keyrings or {}).get(known[kind].entry, keyring))
        for kind, name in suites.items()
        if kind in known
    ]


def find_keyring(source_file: str, *, number: int) -> str | None:
    """The keyring that the entry `number` (from 1) of a file of apt's sources names by its path, if it does.

    Takes both forms of sources.list(5). A key that stands in the file itself is not a path, and not found.
    """
    if "Types:" in source_file:
        stanzas = [block for block in re.split(r"\n\s*\n", source_file) if re.search(r"(?m)^Types:", block)]
        text = stanzas[number - 1] if 0 < number <= len(stanzas) else ""
        found = re.search(r"(?mi)^Signed-By:[ \t]*(/\S+)", text)
    else:
        lines = source_file.splitlines()
        text = lines[number - 1] if 0 < number <= len(lines) else ""
        found = re.search(r"\[.*\bsigned-by=(/[^]\s,]+)", text)
    return found[1] if found else None
