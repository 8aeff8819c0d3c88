"""The documents say what is so: verbs, options, keys, exit codes and files that they name are there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvmctl
from kvmctl.cli import main
from kvmctl.cli.verbs import VERBS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXAMPLES = [*sorted(ROOT.glob("machines/*.toml")), ROOT / "kvmctl/guest/tiny/tiny.toml"]
VIRSH = ROOT / "docs/coming-from-virsh.md"

NO_KEYS = {"suspended", "kvmctl.testing", *VERBS}
"""Words in the second or third column that are no keys of a spec."""


def spans(path: Path) -> Iterator[str]:
    """The words in code style, and the lines of indented or fenced code; of a spec, those in its comments."""
    text = path.read_text()
    if path.suffix == ".toml":
        text = "\n".join(re.findall(r"^# ?(.*)", text, re.MULTILINE))
        yield from re.findall(r"^ {4}(.*)", text, re.MULTILINE)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def commands(path: Path) -> Iterator[list[str]]:
    for span in spans(path):
        match = re.match(r"(?:\$ )?kvmctl ([a-z].*)", span)
        if match:
            yield re.split(r" -- | \| |[;#]| && ", match[1])[0].split()


@pytest.mark.parametrize("path", [*DOCUMENTS, *EXAMPLES], ids=lambda path: path.name)
def test_verbs_and_options_that_a_document_names_exist(path: Path) -> None:
    for name, *words in commands(path):
        assert name in VERBS, f"{path.name}: kvmctl {name}"
        verb = next((sub for sub in VERBS[name].verbs if sub.name in words[:1]), VERBS[name])
        assert not VERBS[name].verbs or verb is not VERBS[name] or not words, f"{path.name}: kvmctl {name} {words}"
        known = {name for option in main.load_command(verb).params for name in option.opts}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= known, f"{path.name}: kvmctl {name} {given - known}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_exit_codes_are_those_of_the_program() -> None:
    told = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs/exit-codes.md").read_text(), re.MULTILINE)
    assert [(int(code), meaning) for code, meaning in told][: len(main.exit_codes())] == main.exit_codes()


def test_scripts_that_a_document_names_exist() -> None:
    for path in (*DOCUMENTS, *EXAMPLES):
        for script in re.findall(r"(?<![\w/])(?:\./)?(scripts/[a-z-]+)", path.read_text()):
            assert (ROOT / script).exists(), f"{path.name}: {script}"


@pytest.mark.parametrize("path", [*DOCUMENTS, *EXAMPLES], ids=lambda path: path.name)
def test_what_a_document_gives_a_script_is_in_the_scripts_own_words(path: Path) -> None:
    for span in spans(path):
        for script, word in re.findall(r"(?:^|[\s/])scripts/([a-z-]+) (--?[a-z][\w-]*|[a-z][\w-]*)", span):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", (ROOT / "scripts" / script).read_text()), span


def test_the_other_way_in_the_cloud_images_comments_is_the_golden_one() -> None:
    text = (ROOT / "machines/cloud-image.toml").read_text()
    _, _, way = text.partition("attached by its path")
    written = "\n".join(re.findall(r"^#     (.*)", way, re.MULTILINE))
    golden = tomllib.loads((ROOT / "tests/specs/cloud-seed.toml").read_text())
    assert tomllib.loads(written)["disks"] == golden["disks"][1:]


def test_keys_that_stand_beside_virt_installs_options_exist() -> None:
    schema = kvmctl.schema()
    for row in re.findall(r"^\|[^|]*\|([^|]*\|[^|]*)\|$", VIRSH.read_text(), re.MULTILINE):
        for word in re.findall(r"`([a-z][a-z_.]*)`", row):
            assert word in NO_KEYS or has_key(schema, schema, word.split(".")), word


def has_key(schema: dict[str, Any], node: dict[str, Any], path: list[str]) -> bool:
    """Whether `path` is a key of a spec, lists and the forms a value can have looked through."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    forms = [*node.get("anyOf", ()), *node.get("oneOf", ()), *([node["items"]] if "items" in node else ())]
    if not path:
        return True
    if path[0] in node.get("properties", {}):
        return has_key(schema, node["properties"][path[0]], path[1:])
    return any(has_key(schema, form, path) for form in forms)
