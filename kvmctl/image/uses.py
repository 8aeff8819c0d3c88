"""Who uses an image of the store, and removing what nobody does.

Uses are not written down, so no record of them can be lost: every overlay names the image that it lies over in its own
header, and all that lies in kvmctl's directories is read. A QEMU that has an image open holds locks on it, wherever its
overlay lies.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from kvmctl import files
from kvmctl.errors import StateError
from kvmctl.image import ofd, qcow2, storage
from kvmctl.image.record import Image
from kvmctl.image.store import Store
from kvmctl.plan.paths import ImagePaths, Roots


@dataclass(frozen=True, slots=True)
class ImageGarbage:
    """A file that nobody needs, and its bytes on the disk."""

    path: str
    size: int


def find_uses(roots: Roots) -> dict[str, list[str]]:
    """The overlays of each image that has any, by the image's file.

    Raises StateError where there is something that can't be read: it might be one.
    """
    found: dict[str, list[str]] = defaultdict(list)
    try:
        for path in _files(roots):
            if (backing := qcow2.find_backing(path)) is not None:
                found[os.path.realpath(os.path.join(os.path.dirname(path), backing))].append(path)
    except OSError as error:
        raise files.cannot("look for overlays of images in", error.filename, error) from error
    return dict(found)


def owner_of(path: str, roots: Roots) -> str:
    """What an overlay belongs to, for people: its machine's name, or where it lies."""
    for root in (os.path.join(roots.state, "machines"), roots.templates, roots.ephemeral, roots.runtime):
        if path.startswith(f"{root}/"):
            return path[len(root) + 1 :].partition("/")[0]
    return path


def remove(name: str, roots: Roots) -> tuple[Image | None, list[str]]:
    """Take the name of an image away, and the image with its last name; and what keeps it, if anything does.

    Raises ImageMissing, StateError.
    """
    store = Store(ImagePaths(roots.images))
    with store.lock():
        image = store.remove(name)
        if image is None:
            return None, []
        path = store.paths.blob(image.digest)
        keepers = [f"the name {other!r}" for other in _names_of(image.digest, store)]
        keepers += sorted({owner_of(use, roots) for use in find_uses(roots).get(os.path.realpath(path), [])})
        if not keepers and ofd.is_path_locked(path):
            keepers = ["a running machine"]
        if not keepers:
            with suppress(FileNotFoundError):
                os.unlink(path)
    return image, keepers


def _names_of(digest: str, store: Store) -> list[str]:
    found = []
    for name in store.names():
        with suppress(StateError):
            image = store.find(name)
            found += [name] if image is not None and image.digest == digest else []
    return found


def find_garbage(roots: Roots) -> list[ImageGarbage]:
    """The images without a name that nobody uses, and what broken-off downloads and imports have left.

    Call it with the store's lock held where it is to be acted on. Raises StateError.
    """
    store = Store(ImagePaths(roots.images))
    paths = [*_unused_blobs(store, roots), *store.abandoned(), *_stale_downloads(roots)]
    return [ImageGarbage(path, os.stat(path).st_blocks * 512) for path in paths]


def collect(roots: Roots) -> list[ImageGarbage]:
    """Remove what `find_garbage` finds; what it was. Raises StateError."""
    with Store(ImagePaths(roots.images)).lock():
        found = find_garbage(roots)
        for item in found:
            try:
                os.unlink(item.path)
            except OSError as error:
                raise files.cannot("remove", item.path, error) from error
    return found


def _unused_blobs(store: Store, roots: Roots) -> Iterator[str]:
    named = {image.digest for name in store.names() if (image := store.find(name)) is not None}
    uses = find_uses(roots)
    for digest in store.digests():
        path = store.paths.blob(digest)
        if digest not in named and os.path.realpath(path) not in uses and not ofd.is_path_locked(path):
            yield path


def _stale_downloads(roots: Roots) -> Iterator[str]:
    """What lies among the downloads and is nobody's who downloads just now."""
    with suppress(FileNotFoundError):
        for entry in sorted(os.listdir(roots.downloads)):
            key = entry.partition(".")[0]
            if not storage.is_flocked(os.path.join(roots.downloads, f"{key}.lock")):
                yield os.path.join(roots.downloads, entry)


def _files(roots: Roots) -> Iterator[str]:
    """Every file under kvmctl's directories that could be an overlay. Raises OSError."""
    for root in (roots.state, roots.runtime):
        for folder, folders, names in os.walk(root, onerror=_unless_gone):
            folders[:] = [name for name in folders if os.path.join(folder, name) != roots.images]
            yield from (path for name in names if os.path.isfile(path := os.path.join(folder, name)))


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
