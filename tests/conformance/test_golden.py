"""Example specs on recorded QEMUs: command lines are as they were reviewed, and QEMU knows every word of them."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import GOLDEN, RECORDINGS, ROOT, SPECS, golden, plan_for

from kvmctl.guest import tiny
from kvmctl.plan.model import Plan
from kvmctl.spec.load import schema
from kvmctl.testing.qapi import check_command, check_option

CASES = [pytest.param(name, version, id=f"{name}-{version}") for name in SPECS for version in RECORDINGS]


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
    for step in plan.before_run:
        problems += check_command(recording.schema, step.execute, step.arguments)
    assert not problems


@pytest.mark.parametrize(("name", "version"), CASES)
def test_a_plan_survives_its_file(name: str, version: str) -> None:
    plan = plan_for(name, version)
    assert Plan.loads(plan.dumps()) == plan


def test_no_golden_is_of_a_spec_that_is_gone() -> None:
    wanted = {f"{version}/{name}.args" for name in SPECS for version in RECORDINGS}
    assert {str(path.relative_to(GOLDEN)) for path in GOLDEN.glob("*/*")} == wanted


def test_the_example_tiny_is_the_one_that_ships() -> None:
    shipped = Path(tiny.__file__).with_name("tiny.toml")
    assert tomllib.loads(SPECS["tiny"].read_text()) == tomllib.loads(shipped.read_text())


# --- the specs show everything there is


def choices(section: dict[str, Any], definitions: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Every key of a section of the schema, with each value that it may be chosen from."""
    for key, item in section["properties"].items():
        yield f"{name}.{key}", ""
        for form in forms(item, definitions):
            for value in form.get("enum", ()):
                yield f"{name}.{key}", json.dumps(value)


def forms(item: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every form a value may have, down through unions, lists and references."""
    if "$ref" in item:
        item = definitions[item["$ref"].rpartition("/")[2]]
    inner = [*item.get("anyOf", ()), *item.get("oneOf", ()), *([item["items"]] if "items" in item else ())]
    if not inner:
        yield item
    for form in inner:
        yield from forms(form, definitions)


def used(value: Any, forms_: list[dict[str, Any]], definitions: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys and choices that a part of a spec uses."""
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            continue
        for section in forms_:
            keys = section.get("properties", {})
            kind = keys.get("type", {}).get("const")
            if not keys or (kind and one.get("type") != kind):
                continue
            for key in one.keys() & keys.keys():
                name = f"{section['title']}.{key}"
                yield name, ""
                yield name, json.dumps(one[key])
                yield from used(one[key], list(forms(keys[key], definitions)), definitions)


def test_every_key_and_every_choice_is_in_some_golden() -> None:
    whole = schema()
    definitions = whole["$defs"]
    sections = [{**whole, "title": "Machine"}, *definitions.values()]
    known = {
        pair
        for section in sections
        if "properties" in section
        for pair in choices(section, definitions, section["title"])
    }
    shown: set[tuple[str, str]] = set()
    for path in SPECS.values():
        shown |= set(used(tomllib.loads(path.read_text()), sections[:1], definitions))
    missing = sorted(f"{key} = {value}" if value else key for key, value in known - shown)
    assert not missing, "put them into tests/specs/*.toml:\n" + "\n".join(missing)
