"""Every way a spec can be wrong, with the words it is told in: tests/data/wrong-specs.txt."""

from __future__ import annotations

import re
from pathlib import Path

import factory
import pytest

TABLE = Path(__file__).parents[1] / "data/wrong-specs.txt"


def read_table(text: str) -> list[tuple[str, list[str]]]:
    """The specs of the table, each with the problems it must be told to have."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n") if not block.startswith("#")]
    return [
        (
            "\n".join(line for line in block if not line.startswith("--> ")),
            [line.removeprefix("--> ") for line in block if line.startswith("--> ")],
        )
        for block in blocks
    ]


WRONG = read_table(TABLE.read_text())


def is_complete(problem: str) -> bool:
    """Whether what is told says what would be right. The file as a whole has no key, and is no TOML."""
    return problem.startswith("is not TOML") or bool(re.search(r"; |: must be |: is given by exactly one of ", problem))


def test_every_problem_says_what_would_be_right() -> None:
    assert [problem for _, problems in WRONG for problem in problems if not is_complete(problem)] == []


@pytest.mark.parametrize(("text", "problems"), WRONG, ids=[text.replace("\n", " ")[:70] for text, _ in WRONG])
def test_a_wrong_spec_is_told_everything_that_is_wrong(text: str, problems: list[str]) -> None:
    assert factory.rejected(text) == problems
