"""One wrong key hides no other problem, and brings none along that is only its consequence."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factory
import pytest

from kvmctl.spec.doubt import NONE, part_of
from kvmctl.spec.load import read

ROOT = Path(__file__).parents[2]
SPECS = sorted((*ROOT.glob("machines/*.toml"), *ROOT.glob("tests/specs/*.toml")))


def spoilt(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every way to make one key of a spec wrong (by its value, or by its name), with that key."""
    match value:
        case dict():
            for name, item in value.items():
                rest = {other: its for other, its in value.items() if other != name}
                full = f"{key}.{name}" if key else name
                yield full, {**value, name: [[]]}
                yield full, {f"{name}x": item, **rest}
                yield from ((place, {**value, name: inner}) for place, inner in spoilt(item, full))
        case list():
            for index, item in enumerate(value):
                others = value[:index], value[index + 1 :]
                yield from (
                    (place, [*others[0], inner, *others[1]]) for place, inner in spoilt(item, f"{key}[{index}]")
                )


def is_about(line: str, key: str) -> bool:
    """Whether the problem `line` is with what `key` is in."""
    part = part_of(key)
    return line.startswith((f"{part}:", f"{part}.", f"{part}[", f"{part}x:", f"{part}x."))


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_a_key_that_is_wrong_is_all_that_is_told(spec: Path) -> None:
    text = json.dumps(tomllib.loads(spec.read_text()), default=str)
    right = factory.rejections(text, format="json")  # what this host has not got
    for key, wrong in spoilt(json.loads(text)):
        told = factory.rejections(json.dumps(wrong), format="json")
        assert [line for line in told if not is_about(line, key) and line not in right] == [], f"{key}: {wrong}"


def test_what_is_left_of_a_wrong_spec_is_a_machine() -> None:
    reading = read('cpus = "2"\nmemory = "2GiB"\n[vsock]\ncid = 1', source="web.toml", base="/specs")
    assert reading.machine is not None
    assert reading.machine.memory.size == 2 << 30
    assert reading.machine.vsock is None
    assert reading.doubt.covers("cpus")
    assert reading.doubt.covers("cpu.max")
    assert not reading.doubt.covers("memory")


def test_a_qemu_without_any_machine_that_is_known_is_told_so() -> None:
    (told,) = factory.rejected("cpu.model = 'EPYC'", qemu=factory.qemu(machines=()))
    assert told.startswith("machine: QEMU 7.2.22 (/usr/bin/qemu-system-x86_64) has no such machine")


def test_a_right_spec_is_in_no_doubt() -> None:
    assert read("", source="web.toml", base="/specs").doubt == NONE
