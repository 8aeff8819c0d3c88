"""Finding a virtiofsd that works."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kvmctl.host import identity
from kvmctl.host.virtiofsd import probe_virtiofsd
from kvmctl.plan.virtiofsd import understand

FIRST = (
    "usage: virtiofsd [options]\n    -o source=PATH   shared directory tree\n    --fd=FDNUM   fd number of the socket\n"
)
SECOND = "Usage: virtiofsd --shared-dir <DIR>\n      --shared-dir <DIR>\n      --fd <FD>\n      --readonly\n"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A host on which nobody has installed one, and users may make namespaces."""
    confined = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(confined, capture_output=True, check=False).returncode:
        pytest.skip("this host lets users make no user namespaces")
    monkeypatch.setattr(identity, "VHOST_USER_DIRECTORIES", (str(tmp_path / "descriptors"),))
    monkeypatch.setattr("kvmctl.host.virtiofsd.VIRTIOFSD_PATHS", ())
    return {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}


def asked(path: Path) -> Path:
    """What grows when the program at `path` is asked: beside its directory, which it sees read-only."""
    return path.parent.parent / f"{path.name}.asked"


def install(path: Path, says: str, *, status: int = 0) -> str:
    """A program that prints `says`, and counts how often it was asked."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"#!/bin/sh\n# {os.path.realpath('/bin/sh')}\nprintf x >>{asked(path)}\ncat <<'.'\n{says}.\nexit {status}\n"
    )
    path.chmod(0o755)
    return str(path)


def describe(tmp_path: Path, name: str, binary: str, *, kind: str = "fs") -> None:
    """A descriptor such as packages bring."""
    directory = tmp_path / "descriptors"
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(json.dumps({"description": "", "type": kind, "binary": binary}))


def test_each_of_the_two_is_known_by_its_help() -> None:
    assert understand("/x", FIRST).is_first
    assert not understand("/x", SECOND).is_first
    assert "--readonly" in understand("/x", SECOND).options
    assert understand("/x", FIRST).works
    assert understand("/x", "who are you?").reason == "'/x' helps unlike any virtiofsd known"


def test_without_one_that_is_said(env: dict[str, str]) -> None:
    daemon = probe_virtiofsd(env=env, cache=None)
    assert (daemon.works, daemon.reason) == (False, "no virtiofsd is installed")


def test_one_on_path_is_found(env: dict[str, str], tmp_path: Path) -> None:
    path = install(tmp_path / "bin/virtiofsd", SECOND)
    assert probe_virtiofsd(env=env, cache=None).path == path


def test_descriptors_count_in_their_order_and_only_those_of_file_systems(env: dict[str, str], tmp_path: Path) -> None:
    describe(tmp_path, "10-gpu.json", install(tmp_path / "bin/gpu", FIRST), kind="gpu")
    describe(tmp_path, "20-gone.json", "/nowhere/virtiofsd")
    describe(tmp_path, "60-late.json", install(tmp_path / "bin/late", FIRST))
    describe(tmp_path, "50-early.json", install(tmp_path / "bin/early", SECOND))
    (tmp_path / "descriptors/00-broken.json").write_text("{")
    assert probe_virtiofsd(env=env, cache=None).path == str(tmp_path / "bin/early")


def test_one_that_fails_is_passed_over(env: dict[str, str], tmp_path: Path) -> None:
    describe(tmp_path, "1.json", install(tmp_path / "bin/bad", SECOND, status=1))
    describe(tmp_path, "2.json", install(tmp_path / "bin/good", SECOND))
    assert probe_virtiofsd(env=env, cache=None).path == str(tmp_path / "bin/good")


def test_the_one_that_is_named_is_the_only_one_looked_at(env: dict[str, str], tmp_path: Path) -> None:
    install(tmp_path / "bin/virtiofsd", SECOND)
    bad = install(tmp_path / "bin/bad", "", status=3)
    daemon = probe_virtiofsd(env={**env, "KVMCTL_VIRTIOFSD": bad}, cache=None)
    assert daemon.reason == f"'{bad}' does not run confined: it exited with status 3"
    daemon = probe_virtiofsd(env={**env, "KVMCTL_VIRTIOFSD": "/nowhere"}, cache=None)
    assert daemon.reason == "there is no executable '/nowhere'"


def test_what_it_said_is_kept_until_it_is_replaced(env: dict[str, str], tmp_path: Path) -> None:
    path = Path(install(tmp_path / "bin/virtiofsd", SECOND))
    for _ in range(2):
        assert not probe_virtiofsd(env=env, cache=str(tmp_path / "cache")).is_first
        assert asked(path).read_text() == "x"
    install(path, FIRST)
    assert probe_virtiofsd(env=env, cache=str(tmp_path / "cache")).is_first
    assert asked(path).read_text() == "xx"


def test_a_failure_is_not_kept(env: dict[str, str], tmp_path: Path) -> None:
    path = Path(install(tmp_path / "bin/virtiofsd", SECOND, status=1))
    for _ in range(2):
        assert not probe_virtiofsd(env=env, cache=str(tmp_path / "cache")).works
    assert asked(path).read_text() == "xx"
