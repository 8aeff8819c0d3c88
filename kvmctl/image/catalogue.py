"""The catalogue: which images can be had by name, and from where. The package's own file, and the user's on top of it.

A family says how its releases' addresses are made up, so that a new release is one line. Looked over by hand and not by
pydantic, which belongs to specs; every mistake in the user's file is named with its key.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

from kvmctl.errors import NotFound, StateError
from kvmctl.image.checksums import Digest
from kvmctl.image.record import Format
from kvmctl.plan.guest import Become
from kvmctl.plan.paths import is_name

BUILTIN: Final = os.path.join(os.path.dirname(__file__), "catalogue.toml")

ARCH: Final = "x86_64"
_FORMATS: Final[tuple[Format, ...]] = ("qcow2", "raw")
_BECOME: Final[tuple[Become, ...]] = ("sudo", "doas")
_Choice = TypeVar("_Choice", bound=str)
_TEXTS: Final = ("title", "url", "checksums", "digest", "user", "shell", "become", "format", "arch")
_SHELL: Final = re.compile(r"(/[\w.+-]+)+", re.ASCII)
_KEYS: Final = (*_TEXTS, "mirrors", "releases")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """An image that can be had."""

    name: str
    title: str
    url: str
    checksums: str | None
    """The address of the publisher's checksums; None where `digest` is given, or nothing vouches for the image."""
    digest: Digest | None = None
    mirrors: tuple[str, ...] = ()
    """More addresses of the same file, tried first."""
    format: Format = "qcow2"
    user: str | None = None
    shell: str | None = None
    become: Become = "sudo"
    arch: str = ARCH


def load_catalogue(path: str) -> dict[str, CatalogueEntry]:
    """The images that can be had, by name: kvmctl's own, and those of the user's file at `path` if it is there.

    Raises StateError for a file that can't be read or is wrong.
    """
    families = _read(BUILTIN)
    if os.path.exists(path):
        families = _merged(families, _read(path))
    entries = [entry for family, table in families.items() for entry in _entries(family, table, path)]
    return {entry.name: entry for entry in entries}


def get_entry(catalogue: Mapping[str, CatalogueEntry], name: str) -> CatalogueEntry:
    """The image of that name. Raises NotFound with the nearest ones."""
    if name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, n=3) or [known for known in catalogue if known.startswith(name)]
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise NotFound(f"the catalogue has no image {name!r}", hint=f"{meant}See them all: kvmctl image list --available")


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise StateError(f"cannot read the catalogue of images {path!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, "", str(error)) from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables as one: what both have is merged where it is a table, and `above`'s elsewhere."""
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        is_table = isinstance(value, dict) and isinstance(before, dict)
        merged[key] = _merged(before, value) if isinstance(before, dict) and is_table else value
    return merged


def _entries(family: str, table: Any, path: str) -> Iterator[CatalogueEntry]:
    if not isinstance(table, dict):
        raise _wrong(path, family, "must be a table")
    releases = table.get("releases", {"": {}})
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise _wrong(path, f"{family}.{key}", "unknown key" + (f"; did you mean {near[0]!r}?" if near else ""))
    if not isinstance(releases, dict) or not all(isinstance(words, dict) for words in releases.values()):
        raise _wrong(path, f"{family}.releases", "must be a table of tables")
    for release, words in releases.items():
        yield _entry(family, release, table, words, path)


def _entry(family: str, release: str, table: Mapping[str, Any], words: Mapping[str, Any], path: str) -> CatalogueEntry:
    name = f"{family}-{release}" if release else family
    if not is_name(name):
        raise _wrong(path, family, f"{name!r} can't be the name of an image")
    filled = dict(_filled(family, release, table, words, path))
    url = filled.get("url", "")
    if urlsplit(url).scheme not in {"http", "https"}:
        raise _wrong(path, f"{family}.url", f"must be an http or https address, and is {url!r}")
    if ("checksums" in filled) == ("digest" in filled):
        raise _wrong(path, family, "needs 'checksums' or 'digest', and not both")
    if filled.get("arch", ARCH) != ARCH:
        raise _wrong(path, f"{family}.arch", f"must be {ARCH!r}, which is what kvmctl runs")
    return CatalogueEntry(
        name=name,
        title=filled.get("title", name),
        url=url,
        checksums=urljoin(url, filled["checksums"]) if "checksums" in filled else None,
        digest=_digest(filled["digest"], family, path) if "digest" in filled else None,
        mirrors=tuple(_mirrors(family, release, table, words, path)),
        format=_one_of(filled.get("format", "qcow2"), _FORMATS, key=f"{family}.format", path=path),
        user=filled.get("user"),
        shell=_shell(filled["shell"], family, path) if "shell" in filled else None,
        become=_one_of(filled.get("become", "sudo"), _BECOME, key=f"{family}.become", path=path),
    )


def _filled(
    family: str, release: str, table: Mapping[str, Any], words: Mapping[str, Any], path: str
) -> Iterator[tuple[str, str]]:
    """The texts of a family with what belongs to one release filled in."""
    for key in _TEXTS:
        if key in table:
            yield key, _fill(table[key], {"release": release, "arch": ARCH, **words}, f"{family}.{key}", path)


def _mirrors(family: str, release: str, table: Mapping[str, Any], words: Mapping[str, Any], path: str) -> Iterator[str]:
    mirrors = table.get("mirrors", [])
    if not isinstance(mirrors, list):
        raise _wrong(path, f"{family}.mirrors", "must be a list of addresses")
    for index, mirror in enumerate(mirrors):
        yield _fill(mirror, {"release": release, "arch": ARCH, **words}, f"{family}.mirrors[{index}]", path)


def _fill(pattern: Any, words: Mapping[str, Any], key: str, path: str) -> str:
    if not isinstance(pattern, str):
        raise _wrong(path, key, "must be text in quotes")

    def word(match: re.Match[str]) -> str:
        value = words.get(match[1])
        if not isinstance(value, str):
            raise _wrong(path, key, f"names {{{match[1]}}}, and the release does not say what that is")
        return value

    return re.sub(r"\{(\w+)\}", word, pattern)


def _digest(text: str, family: str, path: str) -> Digest:
    digest = Digest.parse(text)
    if digest is None:
        raise _wrong(path, f"{family}.digest", f"is no checksum: {text!r}; write 'sha256:' or 'sha512:' and the digits")
    return digest


def _one_of(text: str, known: Sequence[_Choice], *, key: str, path: str) -> _Choice:
    for choice in known:
        if text == choice:
            return choice
    raise _wrong(path, key, f"must be {' or '.join(map(repr, known))}, and is {text!r}")


def _shell(text: str, family: str, path: str) -> str:
    if not _SHELL.fullmatch(text):
        raise _wrong(path, f"{family}.shell", f"must be the path of a program in the guest, and is {text!r}")
    return text


def _wrong(path: str, key: str, message: str) -> StateError:
    place = f"{key}: " if key else ""
    return StateError(f"the catalogue of images {path!r} is wrong: {place}{message}")
