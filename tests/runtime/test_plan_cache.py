"""A plan is taken from the cache exactly as long as compiling would give the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.runtime.plan_cache import Entry

pytestmark = [pytest.mark.qemu]

SPEC = 'accel = "tcg"\nmemory = "16MiB"\nfirmware = "qboot.rom"\n[boot]\nkernel = "builtin:tiny"\n'


@pytest.fixture(autouse=True)
def roots(roots: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """Directories of which not even the cache is shared."""
    monkeypatch.setenv("KVMCTL_CACHE_DIR", str(tmp_path / "cache"))
    return kvmctl.find_roots()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "web.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def entry(spec: Path, roots: Roots) -> Entry:
    """An entry that holds the spec's plan."""
    found = Entry(roots, str(spec), None)
    found.save(kvmctl.prepare(spec).plan, qemu=None)
    return found


def test_an_unchanged_spec_has_the_plan_it_would_be_compiled_to(entry: Entry, spec: Path) -> None:
    assert entry.load() == kvmctl.prepare(spec).plan


def test_another_name_is_another_plan(entry: Entry) -> None:
    assert Entry(entry.roots, entry.spec, "other").load() is None


def test_a_changed_spec_is_compiled_anew(entry: Entry, spec: Path) -> None:
    spec.write_text(SPEC.replace("16MiB", "32MiB"))
    assert entry.load() is None


def test_a_pinned_machine_type_is_another_plan(entry: Entry) -> None:
    pin = Path(entry.roots.machine("web").machine_type)
    pin.parent.mkdir(parents=True)
    pin.write_text("pc-q35-7.0")
    assert entry.load() is None


def test_another_qemu_is_another_plan(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "qemu"
    other.write_text('#!/bin/sh\nexec /usr/bin/env qemu-system-x86_64 "$@"\n')
    other.chmod(0o700)
    monkeypatch.setenv("KVMCTL_QEMU", str(other))
    assert entry.load() is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"made_of": 1, "qemu": null, "plan": "{}"}', "\0"])
def test_a_broken_entry_is_no_entry(entry: Entry, content: str) -> None:
    (path,) = Path(entry.roots.plan_cache).iterdir()
    path.write_text(content)
    assert entry.load() is None


def test_the_cache_does_not_grow_for_ever(entry: Entry, roots: Roots, spec: Path) -> None:
    plan = kvmctl.prepare(spec).plan
    for index in range(205):
        (Path(roots.plan_cache) / f"old{index}.json").write_text("{}")
    Entry(roots, str(spec), "new").save(plan, qemu=None)
    assert len(os.listdir(roots.plan_cache)) <= 201


def test_the_second_start_of_a_spec_needs_no_pydantic(spec: Path, roots: Roots) -> None:
    script = "import sys, kvmctl; print(kvmctl.start_detached(sys.argv[1]).name, 'pydantic' in sys.modules)"
    for expected in ("web True", "web False"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, str(spec)], capture_output=True, text=True, check=False
        )
        assert (done.stdout.strip(), done.stderr) == (expected, "")
        kvmctl.kill("web")
    kvmctl.remove("web")
