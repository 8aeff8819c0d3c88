"""Example specs on recorded QEMUs: command lines are as they were reviewed, and QEMU knows every word of them."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import GOLDEN, NAMES, RECORDINGS, ROOT, SPECS, UNSTABLE, Names, golden, plan_for

from kvmctl.guest import tiny
from kvmctl.plan.model import Plan
from kvmctl.plan.option import resolve
from kvmctl.spec.load import schema
from kvmctl.testing.qapi import check_command, check_option

CASES = [pytest.param(name, version, id=f"{name}-{version}") for name in NAMES for version in RECORDINGS]


@pytest.mark.parametrize(("name", "version"), CASES)
def test_a_spec_compiles_to_what_was_reviewed(name: str, version: str) -> None:
    path = GOLDEN / version / f"{name}.args"
    reviewed = path.read_text() if path.exists() else ""
    now = golden(name, version)
    diff = difflib.unified_diff(
        reviewed.splitlines(), now.splitlines(), str(path.relative_to(ROOT)), "now", lineterm=""
    )
    assert reviewed == now, "\n".join(["", *diff, "", "If this is meant: scripts/golden, and review the difference."])


@pytest.mark.parametrize(("name", "version"), CASES)
def test_qemu_knows_every_option_and_step(name: str, version: str) -> None:
    recording, plan = RECORDINGS[version], plan_for(name, version)
    problems = [problem for option in plan.options for problem in check_option(recording, option)]
    for step in (*plan.before_run, *plan.after_renewal):
        arguments = {key: resolve(value, Names()) for key, value in step.arguments.items()}
        problems += check_command(recording.schema, step.execute, arguments)
    assert not [problem for problem in problems if problem != UNSTABLE]


@pytest.mark.parametrize(("name", "version"), CASES)
def test_a_plan_survives_its_file(name: str, version: str) -> None:
    plan = plan_for(name, version)
    assert Plan.loads(plan.dumps()) == plan


def test_no_golden_is_of_a_spec_that_is_gone() -> None:
    wanted = {f"{version}/{name}.args" for name in NAMES for version in RECORDINGS}
    assert {str(path.relative_to(GOLDEN)) for path in GOLDEN.glob("[0-9]*/*")} == wanted


def test_the_example_tiny_is_the_one_that_ships() -> None:
    shipped = Path(tiny.__file__).with_name("tiny.toml")
    assert tomllib.loads(SPECS["tiny"].read_text()) == tomllib.loads(shipped.read_text())


# --- the specs show everything there is

Section = dict[str, Any]
DEFINITIONS: dict[str, Section] = schema()["$defs"]
CARDS = [section for name, section in DEFINITIONS.items() if name.endswith("Network")]
OF_EVERY_CARD = set.intersection(*(set(section["properties"]) for section in CARDS)) - {"type"}


def place(section: Section, key: str) -> str:
    """The name of a key; what every kind of network has counts once for all."""
    title = section["title"]
    return f"Network.{key}" if section in CARDS and key in OF_EVERY_CARD else f"{title}.{key}"


def forms(item: Section) -> Iterator[Section]:
    """Every form a value may have, down through unions, lists and references."""
    if "$ref" in item:
        item = DEFINITIONS[item["$ref"].rpartition("/")[2]]
    inner = [*item.get("anyOf", ()), *item.get("oneOf", ()), *([item["items"]] if "items" in item else ())]
    if not inner:
        yield item
    for form in inner:
        yield from forms(form)


def known(section: Section) -> Iterator[str]:
    """Every key of a section, and each value it may be chosen from."""
    for key, item in section.get("properties", {}).items():
        yield place(section, key)
        found = list(forms(item))
        if any("properties" in form for form in found):
            continue  # its other forms are short for a table, and are its keys' choices
        for form in found:
            yield from (f"{place(section, key)} = {json.dumps(value)}" for value in form.get("enum", ()))


def used(value: object, item: Section) -> Iterator[str]:
    """The keys and choices that a part of a spec uses."""
    for one in value if isinstance(value, list) else [value]:
        for section in forms(item) if isinstance(one, dict) else ():
            assert isinstance(one, dict)
            keys, others = section.get("properties", {}), section.get("additionalProperties")
            if keys.get("type", {}).get("const") not in {None, one.get("type")}:
                continue
            for key, inner in one.items():
                if key in keys:
                    yield place(section, key)
                    yield f"{place(section, key)} = {json.dumps(inner)}"
                    yield from used(inner, keys[key])
                elif isinstance(others, dict):
                    yield from used(inner, others)


def test_every_key_and_every_choice_is_in_some_golden() -> None:
    whole = schema() | {"title": "Machine"}
    wanted = {name for section in (whole, *DEFINITIONS.values()) for name in known(section)}
    shown = {name for path in SPECS.values() for name in used(tomllib.loads(path.read_text()), whole)}
    missing = sorted(wanted - shown)
    assert not missing, "put them into tests/specs/*.toml:\n" + "\n".join(missing)
