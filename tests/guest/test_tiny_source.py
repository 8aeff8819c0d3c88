"""The tiny guest's source, its shipped bytes and its documentation are one thing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmctl.guest import tiny
from kvmctl.guest.tiny import Key


def test_source_assembles_to_the_shipped_bytes() -> None:
    for program in (os.environ.get("AS", "as"), os.environ.get("LD", "ld")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} (binutils) is not installed")
    script = Path(__file__).parents[2] / "scripts" / "build-tiny"
    subprocess.run([script, "--check"], check=True)


def test_documentation_and_source_agree_on_keys_and_words() -> None:
    source = Path(tiny.IMAGE).parent
    commands = (source / "tiny.S").read_text()
    assert {f"command '{key}'" for key in Key} == {
        line.split(",")[0].strip() for line in commands.splitlines() if line.strip().startswith("command '")
    }
    words = (source / "cmdline.inc").read_text()
    assert {word.removesuffix("N") for word in tiny.WORDS} == {
        line.split('"')[1] for line in words.splitlines() if line.strip().startswith('word "')
    }
