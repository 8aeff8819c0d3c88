"""The JSON Schema that editors use, and the manual made from it."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
from golden import ROOT, SPECS
from jsonschema import Draft202012Validator

from kvmctl.spec.load import schema

VALIDATOR = Draft202012Validator(schema())


@pytest.mark.parametrize("name", SPECS)
def test_every_example_is_right_by_the_schema(name: str) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(SPECS[name].read_text()))] == []


@pytest.mark.parametrize(
    "text",
    [
        "memroy = '1GiB'",
        "memory = '1GB'",
        "cpus = 'two'",
        "[[disks]]\nsize = '1GB'",
        "[[disks]]\ncache = 'fast'",
        "[[networks]]\n",
    ],
)
def test_what_is_wrong_is_wrong_by_the_schema(text: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(text))


def test_every_key_has_a_meaning() -> None:
    whole = schema()
    sections = {"machine": whole, **whole["$defs"]}
    silent = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, item in section.get("properties", {}).items()
        if not item.get("description") and "$ref" not in item
    ]
    assert not silent


def test_the_manual_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/spec-doc"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
