"""Images by name: what the command line and harnesses do with the store, in this user's directories."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from kvmctl.errors import ImageError, ImageMissing, StateError
from kvmctl.image import overlay, uses
from kvmctl.image.catalogue import CatalogueEntry, get_entry, load_catalogue
from kvmctl.image.checksums import Digest
from kvmctl.image.pull import PATIENCE, PulledImage, PullProgress, entry_of_url, pull, split_suffix
from kvmctl.image.record import Format, Image
from kvmctl.image.store import Store
from kvmctl.image.uses import ImageGarbage
from kvmctl.plan.facts import ImageFacts
from kvmctl.plan.model import CreateOverlay, Plan
from kvmctl.plan.paths import ImagePaths, Roots
from kvmctl.runtime import store as runs


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A name in the store as ``kvmctl image list`` shows it."""

    name: str
    image: Image | None
    """What bears the name; None where its record can't be read."""
    used_by: tuple[str, ...] = ()
    """The machines whose disks are overlays of it."""
    problem: str = ""
    """Why it is broken."""


@dataclass(frozen=True, slots=True)
class RemovedImage:
    """A name that was taken away, and what keeps the image itself, if anything does."""

    name: str
    image: Image | None
    kept_for: tuple[str, ...]


def pull_image(
    reference: str,
    *,
    name: str | None = None,
    image_format: Format | None = None,
    digest: str | None = None,
    patience: float = PATIENCE,
    on_progress: Callable[[PullProgress], None] | None = None,
    roots: Roots | None = None,
) -> PulledImage:
    """Get an image into the store, by its name in the catalogue or its address, if it is not there as it is now.

    An address may need a `name` and an `image_format`, and is held against `digest` (``sha256:...``), if that is given.
    `patience` is how many seconds a server may be silent. Raises NotFound, DownloadError, ImageError, StateError.
    """
    roots = roots or runs.find_roots()
    if "://" in reference:
        entry = entry_of_url(reference, name=name, image_format=image_format, digest=_digest(digest))
    else:
        entry = get_entry(load_catalogue(roots.catalogue), reference)
    return pull(entry, store=_store(roots), downloads=roots.downloads, patience=patience, on_progress=on_progress)


def import_image(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    image_format: Format | None = None,
    on_progress: Callable[[int], None] | None = None,
    roots: Roots | None = None,
) -> Image:
    """Take a copy of an image's file into the store, called by the file's name unless given a name.

    Its format is given or told by its name, never found by looking. `on_progress` is told the bytes done. Raises
    NotFound, ImageError, ImageBusy, StateError.
    """
    path = os.fspath(path)
    stem, found = split_suffix(os.path.basename(path))
    image_format = image_format or found
    if image_format is None:
        raise ImageError(
            f"the format of {path!r} can't be told from its name, and images are never probed",
            hint="Say it: --format qcow2 or --format raw",
        )
    return _store(roots or runs.find_roots()).add_file(
        path, name=stem if name is None else name, image_format=image_format, on_progress=on_progress
    )


def list_images(roots: Roots | None = None) -> list[ImageInfo]:
    """The images in the store, by name. Raises StateError where the store itself can't be read."""
    roots = roots or runs.find_roots()
    images, used = _store(roots), uses.find_uses(roots)
    found = []
    for name in images.names():
        try:
            image = images.find(name)
        except StateError as error:
            found.append(ImageInfo(name, None, problem=error.summary))
            continue
        if image is not None:
            overlays = used.get(os.path.realpath(images.paths.blob(image.digest)), [])
            users = tuple(sorted({uses.owner_of(path, roots) for path in overlays}))
            is_there = os.path.exists(images.paths.blob(image.digest))
            found.append(ImageInfo(name, image, users, "" if is_there else "its file is gone"))
    return found


def available_images(roots: Roots | None = None) -> list[CatalogueEntry]:
    """The images that the catalogue knows: kvmctl's own and the user's. Raises StateError."""
    return list(load_catalogue((roots or runs.find_roots()).catalogue).values())


def image_names(roots: Roots | None = None) -> set[str]:
    """The names of all images that are in the store or can be had. Raises StateError."""
    roots = roots or runs.find_roots()
    return {*_store(roots).names(), *load_catalogue(roots.catalogue)}


def image_facts(names: Collection[str], roots: Roots) -> dict[str, ImageFacts]:
    """What is known of those of the `names` whose images are in the store. Raises StateError."""
    found = {name: _store(roots).find(name) for name in names}
    return {
        name: ImageFacts(image.user, image.has_cloud_init, image.shell, image.become)
        for name, image in found.items()
        if image is not None
    }


def remove_image(name: str, *, roots: Roots | None = None) -> RemovedImage:
    """Take the name away, and the image itself where nothing else needs it. Raises ImageMissing, StateError."""
    image, keepers = uses.remove(name, roots or runs.find_roots())
    return RemovedImage(name, image, tuple(keepers))


def collect_images(*, dry_run: bool = False, roots: Roots | None = None) -> list[ImageGarbage]:
    """Remove what of images nobody needs, or with `dry_run` only find it: those without a name that no machine's disk
    is an overlay of, and what broken-off downloads have left. Raises StateError."""
    roots = roots or runs.find_roots()
    return uses.find_garbage(roots) if dry_run else uses.collect(roots)


def missing_images(plan: Plan, *, roots: Roots | None = None) -> list[ImageMissing]:
    """The images that a start of `plan` would look for in vain; each says how to get it. Raises StateError."""
    roots = roots or runs.find_roots()
    found = []
    for step in plan.steps:
        if isinstance(step, CreateOverlay) and not os.path.lexists(step.path):
            try:
                overlay.image_of(step, catalogue=roots.catalogue)
            except ImageMissing as error:
                found.append(error)
    return found


def _store(roots: Roots) -> Store:
    return Store(ImagePaths(roots.images))


def _digest(text: str | None) -> Digest | None:
    digest = None if text is None else Digest.parse(text)
    if text is not None and digest is None:
        raise ImageError(f"{text!r} is no checksum", hint="Write sha256: or sha512: and the hexadecimal digits.")
    return digest
