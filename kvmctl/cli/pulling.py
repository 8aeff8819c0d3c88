"""Pulling images with progress on the terminal: for ``kvmctl image pull``, and where one turns out to be missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

import kvmctl
from kvmctl import ImageMissing
from kvmctl.cli import output
from kvmctl.cli.progress import Bar

if TYPE_CHECKING:
    from kvmctl import Image, PullProgress

T = TypeVar("T")


def pull_image(
    reference: str,
    *,
    name: str | None = None,
    image_format: Literal["raw", "qcow2"] | None = None,
    digest: str | None = None,
) -> Image:
    """Pull an image and say what becomes of it."""
    with Bar(name or reference) as bar:
        pulled = kvmctl.pull_image(
            reference, name=name, image_format=image_format, digest=digest, on_progress=lambda news: _show(bar, news)
        )
    image = pulled.image
    how = f"checked against {image.vouched.partition(':')[0]}" if image.vouched else "unchecked: nothing vouches for it"
    size = f"{output.size(image.stored)}, a disk of {output.size(image.size)}"
    output.say(f"{image.name}: {'up to date' if pulled.was_there else 'pulled'} ({size}, {how})")
    return image


def pulling_what_is_missing(work: Callable[[], T]) -> T:
    """The result of `work`, which is begun anew when an image that it lacks has been pulled."""
    pulled: set[str] = set()
    while True:
        try:
            return work()
        except ImageMissing as error:
            if not error.is_known or error.image in pulled:
                raise
            output.say(f"{error.image} is not in the store yet")
            pull_image(error.image)
            pulled.add(error.image)


def _show(bar: Bar, news: PullProgress) -> None:
    if news.phase == "waiting":
        bar.say(f"waiting: {news.note}")
        return
    bar.say(news.phase if news.total is None else f"{news.phase} {output.size(news.total)}")
    bar.show(news.done, news.total)
