"""Downloading one file, from the first of several places that has it whole and right.

A connection that breaks is taken up again where it broke, as long as there is progress; a place that does not answer,
or has something else, is left for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from kvmctl.errors import DigestMismatch, DownloadError
from kvmctl.image import http
from kvmctl.image.http import Answer, Cut, NotSatisfiable
from kvmctl.image.partial import Partial, check_room

_ENOUGH: Final = 64 << 10
"""Bytes of progress after which a broken connection does not count against a server."""
_STRIKES: Final = 4
"""Connections in a row that may break sooner than that."""

Progress = Callable[[int, int | None], None]
"""Is told the bytes done, and those there are in all where that is known."""


def download(places: Sequence[str], partial: Partial, *, name: str, patience: float, on_progress: Progress) -> str:
    """Make `partial` whole from the first of `places` that can; the address it is from.

    `patience` is how many seconds a server may be silent. Raises DigestMismatch where what came is not what was
    expected, and then nothing is kept; DownloadError where nothing whole came; StateError.
    """
    errors: list[DownloadError] = []
    for place in places:
        try:
            _make_whole(place, partial, name=name, patience=patience, on_progress=on_progress)
            return place
        except DownloadError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    wrong = any(isinstance(error, DigestMismatch) for error in errors)
    raise (DigestMismatch if wrong else DownloadError)(
        f"the image {name!r} can be had from none of {len(places)} places",
        detail="\n".join(f"  {error.summary}" for error in errors),
        hint=next((error.hint for error in errors if error.hint), ""),
    )


def _make_whole(place: str, partial: Partial, *, name: str, patience: float, on_progress: Progress) -> None:
    has_begun_anew = False
    while True:
        _complete(place, partial, name=name, patience=patience, on_progress=on_progress)
        if partial.is_right:
            return
        found, is_of_one_piece = partial.digest, partial.answers == 1
        partial.restart()
        if is_of_one_piece or has_begun_anew:
            raise DigestMismatch(
                f"what {http.shown(place)} gives is not what its publisher's checksum is of",
                detail=f"expected {partial.expected}\nreceived {found}",
                hint="Nothing of it was kept. The publisher may be replacing it just now: try again later.",
            )
        has_begun_anew = True  # the beginning may have been of another version than the rest


def _complete(place: str, partial: Partial, *, name: str, patience: float, on_progress: Progress) -> None:
    """Get what is missing of the whole. Raises DownloadError, keeping what there is."""
    strikes = 0
    while partial.total is None or partial.size < partial.total:
        if partial.expected is None and partial.validator is None:
            partial.restart()  # nothing could tell whether the rest is of the same version
        before = partial.size
        try:
            # What a digest vouches for needs no validator, and every mirror has another.
            validator = None if partial.expected else partial.validator
            with http.get(place, start=partial.size, validator=validator, patience=patience) as answer:
                _take(answer, partial, name=name, on_progress=on_progress)
        except NotSatisfiable:
            partial.restart()
            strikes += 1
            reason = "the server has nothing of what is missing"
        except Cut as error:
            strikes = 0 if partial.size - before >= _ENOUGH else strikes + 1
            reason = str(error)
        else:
            if partial.total is None:
                return  # of a file of unknown length, the end is where the server says it is
            strikes = 0 if partial.size - before >= _ENOUGH else strikes + 1
            reason = "the connection was closed"
        if strikes >= _STRIKES:
            so_far = f"{partial.size} of {partial.total or 'an unknown number of'} bytes"
            raise DownloadError(f"{http.shown(place)}: {reason}, after {so_far}")


def _take(answer: Answer, partial: Partial, *, name: str, on_progress: Progress) -> None:
    """Append the body of `answer`, or begin anew where it is not of what there is."""
    is_other = partial.total is not None and answer.total is not None and partial.total != answer.total
    if partial.size and (answer.start != partial.size or is_other):
        partial.restart()
        if answer.start:
            raise Cut("the file has changed")
    if answer.total is not None:
        check_room(partial.path, answer.total - partial.size, name=name)
    partial.note(validator=answer.validator, total=answer.total)
    for piece in answer.pieces():
        partial.write(piece)
        on_progress(partial.size, partial.total)
        if partial.total is not None and partial.size > partial.total:
            partial.restart()
            raise Cut("there is more than the server said")
