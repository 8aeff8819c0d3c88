"""What was probably meant by a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: object, words: Iterable[str]) -> str:
    """``did you mean 'x'? `` for the nearest of `words`, or nothing. Case and the kind of dash do not matter."""
    near = find_nearest(str(given), words)
    return f"did you mean '{near}'? " if near else ""


def find_nearest(given: str, words: Iterable[str]) -> str | None:
    """The one of `words` that was probably meant by `given`."""
    folded = {_fold(word): word for word in words}
    near = get_close_matches(_fold(given), folded, n=1, cutoff=0.55)
    return folded[near[0]] if near else None


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")
