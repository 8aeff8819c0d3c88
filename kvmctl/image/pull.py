"""Pulling an image: its publisher's checksum, its bytes, and only then its place in the store.

Two pulls of one image share a download: the second waits for the first and then finds what it wanted. What is broken
off, whatever did that, leaves nothing in the store and its beginning in the cache, for the next pull to go on from.
"""

from __future__ import annotations

import bz2
import fcntl
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from kvmctl import files
from kvmctl.errors import DownloadError, ImageError
from kvmctl.image import http, storage
from kvmctl.image.catalogue import CatalogueEntry
from kvmctl.image.checksums import Digest, find_digest
from kvmctl.image.download import download
from kvmctl.image.partial import Partial
from kvmctl.image.record import Format, Image, Origin, check_name
from kvmctl.image.store import CHUNK, Store

PATIENCE: Final = 30.0
"""Seconds that a server may be silent."""
_CHECKSUMS_LIMIT: Final = 4 << 20
_UNPACKED_LIMIT: Final = 1 << 42
_SUFFIXES: Final[dict[str, Format]] = {".qcow2": "qcow2", ".raw": "raw", ".iso": "raw"}

Phase: TypeAlias = Literal["waiting", "downloading", "unpacking"]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is: bytes `done` of `total`, which is None where nobody knows; `note` is for people."""

    image: str
    phase: Phase
    done: int = 0
    total: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class PulledImage:
    """The image that was pulled, and whether it `was_there` already, as its publisher has it."""

    image: Image
    was_there: bool


_Unpacker: TypeAlias = Callable[[str], lzma.LZMAFile | gzip.GzipFile | bz2.BZ2File]
_UNPACKERS: Final[dict[str, _Unpacker]] = {".xz": lzma.LZMAFile, ".gz": gzip.GzipFile, ".bz2": bz2.BZ2File}


def pull(
    entry: CatalogueEntry,
    *,
    store: Store,
    downloads: str,
    patience: float = PATIENCE,
    on_progress: Callable[[PullProgress], None] | None = None,
) -> PulledImage:
    """Get the image of `entry` into `store` by way of the directory `downloads`, if it is not there.

    Raises DownloadError, DigestMismatch, ImageError, StateError.
    """
    tell = on_progress or _tell_nobody
    key = sha256(entry.url.encode()).hexdigest()[:32]
    path = os.path.join(downloads, f"{key}.part")
    before = store.find(entry.name)
    with _one_pull(os.path.join(downloads, f"{key}.lock"), entry, tell) as has_waited:
        there = store.find(entry.name)
        if has_waited and there is not None and there != before:
            return PulledImage(there, was_there=True)
        expected = _expected(entry, patience=patience)
        if there is not None and _is_current(there, entry, expected, store):
            return PulledImage(there, was_there=True)
        with Partial(path, expected) as partial, _tidied(partial):
            image = _fetch(entry, partial, store=store, patience=patience, on_progress=tell)
    return PulledImage(image, was_there=False)


@contextmanager
def _tidied(partial: Partial) -> Iterator[None]:
    """Leave of a download what the next pull can use, and nothing else."""
    try:
        yield
    except ImageError:
        partial.remove()  # it is whole, and of no use to anybody
        raise
    except DownloadError as error:
        if partial.size:
            error.hint = error.hint or "What there is was kept: the next pull goes on from there."
        else:
            partial.remove()
        raise
    partial.remove()


def _tell_nobody(_: PullProgress) -> None:
    """What is told of progress where nobody asked."""


def entry_of_url(
    url: str, *, name: str | None = None, image_format: Format | None = None, digest: Digest | None = None
) -> CatalogueEntry:
    """What can be had at `url`, called by its file's name unless given a name. Raises ImageError."""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise ImageError(f"{url!r} is no http or https address", hint="For a file: kvmctl image import FILE")
    stem, found = split_suffix(unquote(urlsplit(url).path.rpartition("/")[2]))
    image_format = image_format or found
    if image_format is None:
        raise ImageError(
            f"the format of {http.shown(url)!r} can't be told from its name, and images are never probed",
            hint="Say it: --format qcow2 or --format raw",
        )
    return CatalogueEntry(check_name(name or stem), http.shown(url), url, None, digest, format=image_format)


def split_suffix(file_name: str) -> tuple[str, Format | None]:
    """A file's name without what says how it is packed and its format, and that format; None where it says none."""
    stem = file_name
    if os.path.splitext(stem)[1] in _UNPACKERS:
        stem = os.path.splitext(stem)[0]
    rest, suffix = os.path.splitext(stem)
    return (rest, _SUFFIXES[suffix]) if suffix in _SUFFIXES else (stem, None)


def _expected(entry: CatalogueEntry, *, patience: float) -> Digest | None:
    """The publisher's checksum. Raises DownloadError where it can't be had, or is not of this image."""
    if entry.checksums is None:
        return entry.digest
    name = unquote(urlsplit(entry.url).path.rpartition("/")[2])
    text = http.get_text(entry.checksums, limit=_CHECKSUMS_LIMIT, patience=patience)
    is_of_one = urlsplit(entry.checksums).path.rpartition("/")[2].startswith(name)
    digest = find_digest(text, name, is_of_one=is_of_one)
    if digest is None:
        raise DownloadError(
            f"{http.shown(entry.checksums)} has no SHA-256 or SHA-512 checksum of {name!r}",
            hint="The publisher may have moved on: kvmctl image list --available; or say where it is in images.toml.",
        )
    return digest


def _is_current(image: Image, entry: CatalogueEntry, expected: Digest | None, store: Store) -> bool:
    """Whether the store has what the publisher has; nobody can say so of what nobody vouches for."""
    is_same = image.source == http.shown(entry.url) and expected is not None and image.vouched == str(expected)
    return is_same and storage.size_of(store.paths.blob(image.digest)) == image.stored


def _fetch(
    entry: CatalogueEntry,
    partial: Partial,
    *,
    store: Store,
    patience: float,
    on_progress: Callable[[PullProgress], None],
) -> Image:
    """Download the image and take it into the store."""

    def tell(done: int, total: int | None) -> None:
        on_progress(PullProgress(entry.name, "downloading", done, total))

    places = (*entry.mirrors, entry.url)
    download(places, partial, name=entry.name, patience=patience, on_progress=tell)
    vouched = str(partial.expected) if partial.expected else None
    origin = Origin(http.shown(entry.url), vouched, entry.user, shell=entry.shell, become=entry.become)
    unpacker = _UNPACKERS.get(os.path.splitext(urlsplit(entry.url).path)[1])
    if unpacker is None:
        return store.adopt(partial.path, partial.sha256, name=entry.name, image_format=entry.format, origin=origin)
    return store.add(
        _unpacked(partial.path, unpacker, url=http.shown(entry.url)),
        name=entry.name,
        image_format=entry.format,
        origin=origin,
        on_progress=lambda done: on_progress(PullProgress(entry.name, "unpacking", done)),
    )


def _unpacked(path: str, unpacker: _Unpacker, *, url: str) -> Iterator[bytes]:
    """What the packed file holds, piece by piece. Raises ImageError."""
    done = 0
    try:
        with unpacker(path) as file:
            while piece := file.read(CHUNK):
                done += len(piece)
                if done > _UNPACKED_LIMIT:
                    raise ImageError(f"{url} unpacks to more than 4 TiB, which no image is")
                yield piece
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ImageError(f"{url} can't be unpacked", detail=str(error)) from error


@contextmanager
def _one_pull(path: str, entry: CatalogueEntry, on_progress: Callable[[PullProgress], None]) -> Iterator[bool]:
    """Pull alone; whether somebody else had to be waited for."""
    files.make_private_dir(os.path.dirname(path))
    has_waited = False
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise files.cannot("open", path, error) from error
        try:
            if not _try_flock(descriptor):
                has_waited = True
                holder = os.pread(descriptor, 32, 0).decode().strip() or "?"
                on_progress(PullProgress(entry.name, "waiting", note=f"process {holder} is pulling it"))
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                continue  # who had it has removed it, and another may have made a new one
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            try:
                yield has_waited
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(path)
            return
        finally:
            os.close(descriptor)


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
