"""What guests are told is, word by word, what was reviewed."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from golden import ROOT
from seeds import SEEDS, TOLD, told_text


@pytest.mark.parametrize("name", TOLD)
def test_a_guest_is_told_what_was_reviewed(name: str, tmp_path: Path) -> None:
    path = SEEDS / f"{name}.txt"
    reviewed = path.read_text() if path.exists() else ""
    now = told_text(name, tmp_path)
    names = (str(path.relative_to(ROOT)), "now")
    diff = difflib.unified_diff(reviewed.splitlines(), now.splitlines(), *names, lineterm="")
    assert reviewed == now, "\n".join(["", *diff, "", "If this is meant: scripts/golden, and review the difference."])


def test_no_golden_is_of_a_guest_that_is_told_nothing() -> None:
    assert {path.name for path in SEEDS.iterdir()} == {f"{name}.txt" for name in TOLD}
