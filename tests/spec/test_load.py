"""Reading specs: TOML and JSON, files, paths, the schema."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import factory
import pytest

from kvmctl.errors import NotFound, SpecError, StateError
from kvmctl.plan.paths import BUILTIN_SPECS
from kvmctl.spec.load import MAX_BYTES, absolute_text, load, parse, schema

SMALLEST = """
memory = "1GiB"
cpus = 2
[[disks]]
path = "disk.qcow2"
[[networks]]
type = "user"
forward = ["127.0.0.1:2222->22"]
"""
LARGER = """
balloon = false
video = "std"
[watchdog]
[vnc]
[smbios.system]
serial = "x"
[credentials]
a = "b"
c = { env = "D" }
[clock]
base = 2024-02-29T12:00:00
[[serials]]
[[channels]]
name = "x"
"""


def problem(text: str, **how: Any) -> str:
    """The one problem of a text that is no spec."""
    with pytest.raises(SpecError) as caught:
        parse(text, source="web.toml", base="/specs", **how)
    (found,) = caught.value.problems
    return str(found)


def test_the_smallest_spec_is_a_few_lines() -> None:
    machine = parse(SMALLEST, source="/specs/web.toml", base="/specs")
    assert (machine.name, machine.memory.size, machine.cpus) == ("web", 1 << 30, 2)
    assert machine.disks[0].path == "/specs/disk.qcow2"
    assert machine.source == "/specs/web.toml"


def test_json_says_the_same_as_toml() -> None:
    toml = parse(SMALLEST, source="web.toml", base="/specs")
    text = json.dumps(tomllib.loads(SMALLEST))
    assert parse(text, source="web.toml", base="/specs", format="json") == toml


@pytest.mark.parametrize("text", [SMALLEST, LARGER])
def test_a_spec_survives_the_plan_it_is_kept_in(text: str) -> None:
    machine = factory.machine(text)
    kept = json.dumps(factory.plan(text).spec)
    assert parse(kept, source="web.toml", base="/elsewhere", format="json") == machine


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("memory = ", "is not TOML at the end of the file: invalid value"),
        ("cpus = 2\nmemory = 1GiB\n", "is not TOML at line 2, column 11: expected newline or end of document after"),
        ("a = " + "[" * 5000, "is nested too deeply"),
        (f"cpus = {'9' * 5000}", "Exceeds the limit"),
        ("[cpu]\n[cpu]\n", "is not TOML at line 2, column 5: cannot declare ('cpu',) twice"),
    ],
)
def test_what_is_not_toml_is_told_with_its_place(text: str, told: str) -> None:
    assert problem(text).startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"cpus": }', "is not JSON at line 1, column 10: expecting value"),
        ('{"cpus": 2,\n "cpus": 3}', "has the key 'cpus' twice in one object"),
        ("[]", "is JSON, but no object"),
    ],
)
def test_what_is_not_json_is_told_with_its_place(text: str, told: str) -> None:
    assert problem(text, format="json").startswith(told)


# --- names


@pytest.mark.parametrize(("source", "name"), [("/a/web-1.toml", "web-1"), ("db.json", "db"), ("x/../y.z.toml", "y.z")])
def test_a_machine_is_named_after_its_file(source: str, name: str) -> None:
    assert parse("", source=source, base="/").name == name


def test_a_file_whose_name_is_no_machine_s_needs_one_in_it() -> None:
    with pytest.raises(SpecError) as caught:
        parse("", source="my machine.toml", base="/")
    assert str(caught.value.problems[0]).startswith(
        "name: is missing, and the file's own name is not a machine's name (given 'my machine')"
    )
    assert parse("name = 'mine'", source="my machine.toml", base="/").name == "mine"


# --- files


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(SMALLEST)
    machine = load(tmp_path / "web.toml")
    assert machine.disks[0].path == str(tmp_path / "disk.qcow2")
    (tmp_path / "db.json").write_text('{"cpus": 4}')
    assert load(str(tmp_path / "db.json")).cpus == 4


def test_paths_count_from_the_file_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs/web.toml").write_text(SMALLEST.replace("disk.qcow2", "../images/disk.qcow2"))
    monkeypatch.chdir(tmp_path)
    assert load("specs/web.toml").disks[0].path == f"{tmp_path}/specs/../images/disk.qcow2"


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no machine spec"):
        load(tmp_path / "web.toml")


def test_a_file_that_can_not_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        load(tmp_path)
    assert caught.value.detail == os.strerror(21)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name = '\xff'", "is not UTF-8 text (byte 8)"),
        (b"#" * (MAX_BYTES + 1), "is larger than 1MiB, which no machine spec is"),
    ],
)
def test_a_file_that_is_no_text_is_no_spec(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "web.toml").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "web.toml")
    assert [str(found) for found in caught.value.problems] == [told]


def test_the_error_names_the_file_and_every_problem() -> None:
    with pytest.raises(SpecError) as caught:
        parse("cpus = 0\nfoo = 1", source="specs/web.toml", base="/")
    assert str(caught.value) == (
        "specs/web.toml: 2 problems in the machine spec\n"
        "  specs/web.toml: cpus: is too small (given 0); 1 or more\n"
        "  specs/web.toml: foo: unknown key; did you mean 'boot'?"
    )


def test_the_guest_that_ships_has_a_spec() -> None:
    assert load(BUILTIN_SPECS["tiny"]).boot.kernel == "builtin:tiny"


# --- paths made absolute


def test_relative_paths_become_absolute_and_all_else_stays() -> None:
    text = """\
# The web server
memory = "1GiB"          # plenty
firmware = "./x.rom"
qemu = "qemu-system-x86_64"
description = "not/a/path"
[boot]
kernel = "vmlinuz"
[credentials]
a = "b/c"
d = { file = "e" }
[[disks]]   # the root
path = "disk.qcow2"
[[disks]]
path = '/srv/data.raw'
[[networks]]
type = "stream"
address = "./link.sock"
[[networks]]
type = "stream"
address = "127.0.0.1:5000"
"""
    expected = (
        text.replace('"./x.rom"', '"/specs/x.rom"')
        .replace('"vmlinuz"', '"/specs/vmlinuz"')
        .replace('"e"', '"/specs/e"')
        .replace('"disk.qcow2"', '"/specs/disk.qcow2"')
        .replace('"./link.sock"', '"/specs/link.sock"')
    )
    assert absolute_text(text, "/specs") == expected
    assert absolute_text(expected, "/elsewhere") == expected


def test_a_wrong_spec_is_not_made_absolute() -> None:
    with pytest.raises(SpecError):
        absolute_text("cpus = 0", "/specs")


def test_a_machine_of_no_file_needs_absolute_paths() -> None:
    with pytest.raises(ValueError, match="is a relative path"):
        factory.Machine.model_validate({"disks": [{"path": "disk.qcow2"}]})


# --- the schema


def test_every_key_is_described() -> None:
    tables = [item for item in factory.objects(schema()) if "properties" in item]
    assert len(tables) > 20
    bare = [f"{table['title']}.{key}" for table in tables for key, item in table["properties"].items()
            if not item.get("description", "").endswith((".", "!"))]  # fmt: skip
    assert bare == []


def test_the_schema_knows_what_stands_for_a_table() -> None:
    properties = schema()["properties"]
    for key, kinds in {"memory": {"string", "integer"}, "balloon": {"boolean"}}.items():
        assert kinds <= {form.get("type") for form in properties[key]["anyOf"]}
    assert properties["video"]["anyOf"][1] == {"enum": ["virtio", "std", "qxl", "cirrus", "none"]}
