"""What the store knows of an image, and the errors for names that it does not know. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvmctl.errors import ImageError, ImageMissing
from kvmctl.plan.guest import Become
from kvmctl.plan.paths import NAME_ALLOWED, is_name

Format: TypeAlias = Literal["raw", "qcow2"]


@dataclass(frozen=True, slots=True)
class Image:
    """A name in the store, and the image that bears it."""

    name: str
    digest: str
    """The SHA-256 of its content, in hexadecimal."""
    format: Format
    size: int
    """Bytes of the disk that a guest sees."""
    stored: int
    """Bytes of the file; less on the disk where it has holes."""
    added: float
    """When it was taken into the store, in seconds since the epoch."""
    source: str
    """The address or file it is from."""
    vouched: str | None = None
    """The publisher's checksum it was checked against, as ``sha512:...``; None where there is none."""
    user: str | None = None
    """Whom to log in as, unless the machine's spec says otherwise."""
    has_cloud_init: bool | None = None
    """Whether its first boot goes by what cloud-init is told; None where nobody has said."""
    shell: str | None = None
    """What people there have for a shell; None where nobody has said."""
    become: Become = "sudo"


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of an image besides its content: for its record."""

    source: str
    vouched: str | None = None
    user: str | None = None
    has_cloud_init: bool | None = None
    shell: str | None = None
    become: Become = "sudo"


def check_name(name: str) -> str:
    """`name` itself. Raises ImageError where no image can be called that."""
    if not is_name(name):
        raise ImageError(f"no image can be called {name!r}", hint=f"A name is {NAME_ALLOWED}.")
    return name


def missing(name: str, *, stored: Collection[str], catalogued: Collection[str] | None = None) -> ImageMissing:
    """The error for an image that the store does not have: how to get it, or what may have been meant.

    Without `catalogued`, the names that can be had, it is one of the store that is asked for.
    """
    if catalogued is not None and name in catalogued:
        hint = f"Get it: kvmctl image pull {name}"
        return ImageMissing(f"the image {name!r} is not in the store", hint=hint, image=name, is_known=True)
    near = difflib.get_close_matches(name, {*stored, *(catalogued or ())}, n=3)
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    places, listing = ("in the store", "") if catalogued is None else ("in the store or the catalogue", " --available")
    summary = f"there is no image {name!r} {places}"
    return ImageMissing(summary, hint=f"{meant}See them all: kvmctl image list{listing}", image=name)
