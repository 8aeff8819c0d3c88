"""What was probably meant by a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: object, words: Iterable[str]) -> str:
    """``did you mean 'x'? `` for the nearest of `words`, or nothing. Case and the kind of dash do not matter."""
    folded = {_fold(word): word for word in words}
    near = get_close_matches(_fold(str(given)), folded, n=1, cutoff=0.55)
    return f"did you mean '{folded[near[0]]}'? " if near else ""


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")
