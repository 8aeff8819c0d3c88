"""A guest that is told something, on the command line: shown, checked, started with it, and nothing left of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import Kvmctl

TINY = """
memory = "16MiB"
balloon = false
rng = false
firmware = "qboot.rom"
agent = false
[boot]
kernel = "builtin:tiny"
[[networks]]
type = "user"
[guest]
"""


@pytest.fixture
def spec(kvmctl: Kvmctl) -> Path:
    kvmctl.environment["HOME"] = str(kvmctl.directory)
    path = kvmctl.directory / "web.toml"
    path.write_text(TINY)
    return path


def seed_of(kvmctl: Kvmctl) -> Path:
    return kvmctl.directory / "state/machines/web/guest/seed.iso"


def user_data(kvmctl: Kvmctl) -> str:
    argv = ["xorriso", "-no_rc", "-osirrox", "on", "-indev", str(seed_of(kvmctl)), "-extract", "/user-data"]
    out = kvmctl.directory / "user-data"
    out.unlink(missing_ok=True)
    subprocess.run([*argv, str(out)], capture_output=True, check=True)
    return out.read_text()


def test_what_the_guest_will_be_told_is_shown_before_it_is_started(kvmctl: Kvmctl, spec: Path) -> None:
    out = kvmctl.ok("show", str(spec), "--guest")
    assert "# NoCloud file user-data\n#cloud-config\n" in out
    assert '"local-hostname": "web"' in out
    assert '"ed25519_private": "(hidden)"' in out
    assert "ssh-ed25519 (made at the first start)" in out
    assert not (kvmctl.directory / "state").exists(), "looking made something"


def test_it_is_shown_as_json(kvmctl: Kvmctl, spec: Path) -> None:
    spec.write_text(f"{TINY}via = 'credentials'\n")
    record = json.loads(kvmctl.ok("show", str(spec), "--guest", "--json"))
    assert (record["name"], record["via"]) == ("web", "credentials")
    assert record["files"]["kvmctl.first-boot"].startswith("#!/bin/sh\n")


def test_a_machine_that_tells_its_guest_nothing_says_so(kvmctl: Kvmctl) -> None:
    done = kvmctl("show", "tiny", "--guest")
    assert done.returncode == 4
    assert "the spec of 'tiny' says nothing of its guest" in done.stderr


def test_files_for_the_guest_are_validated(kvmctl: Kvmctl, spec: Path) -> None:
    (kvmctl.directory / "user.yaml").write_text("#cloud-config\na: [\n")
    spec.write_text(f"{TINY}user_data = 'user.yaml'\nssh_keys = ['no.pub']\n")
    done = kvmctl("validate", str(spec))
    assert done.returncode == 3
    assert "guest.user_data: is not YAML at line 3, column 1" in done.stderr
    assert f"guest.ssh_keys[0]: there is no such file (given '{kvmctl.directory}/no.pub')" in done.stderr


def test_a_secret_that_is_not_there_makes_no_spec_wrong(kvmctl: Kvmctl, spec: Path) -> None:
    spec.write_text(f"{TINY}[[guest.users]]\nname = 'bob'\npassword = {{ env = 'NOT_SET_HERE' }}\n")
    done = kvmctl("validate", str(spec))
    assert (done.returncode, done.stdout) == (0, f"{spec}: no problems\n")
    assert "the environment variable 'NOT_SET_HERE' is not set" in done.stderr


@pytest.mark.qemu
def test_wrong_files_are_told_before_anything_starts_and_leave_nothing(kvmctl: Kvmctl, spec: Path) -> None:
    spec.write_text(f"{TINY}ssh_keys = ['no.pub']\n[[disks]]\nsize = '1MiB'\n")
    done = kvmctl("start", str(spec))
    assert done.returncode == 3
    assert "there is no such file" in done.stderr
    assert not (kvmctl.directory / "state/machines/web").exists()
    assert os.listdir(kvmctl.directory / "runtime") == []


@pytest.mark.qemu
def test_a_second_start_has_the_seed_and_rm_takes_it(kvmctl: Kvmctl, spec: Path) -> None:
    kvmctl.ok("define", str(spec))
    kvmctl.ok("start", "web")
    first, told = seed_of(kvmctl).stat(), user_data(kvmctl)
    disks = json.loads(kvmctl.ok("show", "web", "--json"))["plan"]["disks"]
    assert [disk["path"] for disk in disks if disk["id"] == "seed"] == [str(seed_of(kvmctl))]
    kvmctl.ok("stop", "web", "--force")
    kvmctl.ok("start", "web")
    again = seed_of(kvmctl).stat()
    assert (again.st_ino, again.st_mtime_ns, user_data(kvmctl)) == (first.st_ino, first.st_mtime_ns, told)
    kvmctl.ok("stop", "web", "--force")
    kvmctl.ok("rm", "web", "--yes")
    assert not (kvmctl.directory / "state/machines/web").exists()


@pytest.mark.qemu
def test_a_machine_in_the_foreground_leaves_no_keys(kvmctl: Kvmctl, spec: Path) -> None:
    run = kvmctl.popen("run", str(spec))
    assert run.stdout is not None
    try:
        for line in run.stdout:
            if "READY" in line:
                (key,) = kvmctl.directory.glob("runtime/*/state/ssh/id_ed25519")
                assert key.stat().st_mode & 0o777 == 0o600
                break
    finally:
        run.terminate()
        run.communicate(timeout=30)
    assert os.listdir(kvmctl.directory / "runtime") == []
    assert not (kvmctl.directory / "state/machines/web").exists()


@pytest.mark.qemu
def test_no_secret_is_on_the_command_line_or_in_the_plan(kvmctl: Kvmctl, spec: Path) -> None:
    (kvmctl.directory / "secret").write_text("hunter2-secret\n")
    text = "via = '{}'\n[[guest.users]]\nname = 'bob'\npassword = {{ file = 'secret' }}\n"
    for way in ("nocloud", "credentials"):
        spec.write_text(TINY + text.format(way))
        kvmctl.ok("start", str(spec))
        pid = int((kvmctl.directory / "runtime/web/pid").read_text())
        for place in (Path(f"/proc/{pid}/cmdline"), kvmctl.directory / "runtime/web/plan.json"):
            content = place.read_bytes()
            assert b"hunter2" not in content
            assert b"PRIVATE KEY" not in content
        kvmctl.ok("stop", "web", "--force")


@pytest.mark.qemu
def test_starting_without_a_guest_to_tell_imports_nothing_for_it(kvmctl: Kvmctl, spec: Path) -> None:
    spec.write_text(TINY.replace("[guest]\n", ""))
    kvmctl.ok("start", str(spec))
    kvmctl.ok("stop", "web", "--force")
    modules = kvmctl.modules("start", str(spec))
    assert not {"pycdlib", "yaml", "kvmctl.runtime.firstboot", "kvmctl.runtime.sshkeys"} & modules
    kvmctl.ok("stop", "web", "--force")


@pytest.mark.qemu
def test_starting_again_imports_no_library_for_what_was_told(kvmctl: Kvmctl, spec: Path) -> None:
    kvmctl.ok("start", str(spec))
    kvmctl.ok("stop", "web", "--force")
    modules = kvmctl.modules("start", str(spec))
    assert not {"pycdlib", "yaml", "pydantic"} & modules
    kvmctl.ok("stop", "web", "--force")
