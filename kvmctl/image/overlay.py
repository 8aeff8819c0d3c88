"""Making a machine's disk: a linked overlay of an image in the store, which is never written again."""

from __future__ import annotations

import os
from typing import Final

from kvmctl.errors import ImageMissing, StateError
from kvmctl.image import qemuimg, storage
from kvmctl.image.catalogue import load_catalogue
from kvmctl.image.hold import NO_HOLD, Hold
from kvmctl.image.record import Image
from kvmctl.image.store import Store
from kvmctl.plan.model import CreateOverlay
from kvmctl.plan.paths import ImagePaths

_ROOM: Final = 64 << 20
"""Bytes that must be free: less would not last a guest through its boot."""


def check(step: CreateOverlay, *, catalogue: str) -> None:
    """Look whether the overlay could be made; `catalogue` is the user's, for the hint.

    Raises ImageMissing where there is no such image, StateError where there is no space.
    """
    image = image_of(step, catalogue=catalogue)
    size = size_of(step, image)
    needed, free = min(size, _ROOM), storage.free_bytes(step.path)
    if free < needed:
        raise StateError(
            f"{step.key}: no space for the overlay of {step.image!r}: {os.path.dirname(step.path)!r} has "
            f"{storage.mebibytes(free)} free, and the disk may grow to {storage.mebibytes(size)}",
            hint=f"At least {storage.mebibytes(needed)} must be free. Free some, or point KVMCTL_STATE_DIR elsewhere.",
        )


def create(step: CreateOverlay, *, qemu: str, catalogue: str, hold: Hold = NO_HOLD) -> None:
    """Make the overlay, beside whose QEMU `qemu` the qemu-img is. Raises as `check`, and ImageError."""
    store = Store(ImagePaths(step.store))
    with store.lock(is_shared=True):  # until the overlay says what it lies over, nothing else does
        image = image_of(step, catalogue=catalogue)
        qemuimg.create_overlay(
            qemuimg.find_qemu_img(qemu),
            step.path,
            backing=store.paths.blob(image.digest),
            backing_format=image.format,
            size=size_of(step, image),
            hold=hold,
        )


def file_of(step: CreateOverlay, *, catalogue: str) -> str:
    """The image's own file in the store. Raises ImageMissing, StateError."""
    return ImagePaths(step.store).blob(image_of(step, catalogue=catalogue).digest)


def size_of(step: CreateOverlay, image: Image) -> int:
    """Bytes of the disk: what is asked for, and not less than the image has."""
    return max(step.size or 0, image.size)


def image_of(step: CreateOverlay, *, catalogue: str) -> Image:
    """The image that the overlay will lie over. Raises ImageMissing, StateError."""
    store = Store(ImagePaths(step.store))
    try:
        return store.get(step.image, catalogued=lambda: load_catalogue(catalogue).keys())
    except ImageMissing as error:
        summary = f"{step.key}: {error.summary}"
        raise ImageMissing(summary, hint=error.hint, image=error.image, is_known=error.is_known) from None
