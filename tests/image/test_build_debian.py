"""Builds of the whole Debian disk, by who is not root, and builds that fail in the middle: nothing is left of those."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 64321
"""A user of no name, with no subordinate ids and no home."""
BUILD = """
import sys
from kvmctl.image.build.debian import build_debian
built = build_debian(
    sys.argv[1] + "/disk.qcow2", work=sys.argv[1] + "/work", cloud_init=False, mirror=sys.argv[2] or None,
    on_progress=lambda progress: print(progress.step, flush=True),
)
"""

pytestmark = [
    pytest.mark.debian,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="this is neither Debian nor Ubuntu"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of nobody's own: what pytest makes is closed to others."""
    with tempfile.TemporaryDirectory(prefix="kvmctl-build-") as directory:
        if os.geteuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
        yield Path(directory)


def build(place: Path, *, mirror: str = "", **environment: str) -> subprocess.Popen[str]:
    """A build in `place` by a user who is not root, with the system's own Python, which such a user can run."""
    python = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable
    argv = [python, "-B", "-c", BUILD, str(place), mirror]
    if os.geteuid() == 0:
        argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--", *argv]
    paths = {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=paths | environment, cwd="/", stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status, and what was said of what went wrong."""
    said = process.communicate()[1]
    if "PermissionError" in said or "needs-python" in said or "SyntaxError" in said:
        pytest.skip("another user can't run this host's Python on these sources")
    return process.returncode, said


def processes_of(place: Path) -> list[psutil.Process]:
    return [
        process for process in psutil.process_iter(["cmdline"]) if str(place) in " ".join(process.info["cmdline"] or ())
    ]


def owners_in(disk: Path, place: Path) -> dict[str, str]:
    """What debugfs says of files that are not only root's."""
    raw = place / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
    asked = {
        "/etc/shadow": "/etc/shadow",
        "/etc/passwd": "/etc/passwd",
        "/usr/sbin/unix_chkpwd": "/usr/sbin/unix_chkpwd",
        "/var/mail": "/var/mail",
        "/var/log/journal": "/var/log/journal",
    }
    found = {}
    for name, path in asked.items():
        done = subprocess.run(
            ["debugfs", "-R", f"stat {path}", f"{raw}?offset={18 << 20}"], capture_output=True, text=True, check=True
        )
        words = done.stdout.split()
        found[name] = (
            f"{words[words.index('User:') + 1]}:{words[words.index('Group:') + 1]} {words[words.index('Mode:') + 1]}"
        )
    return found


def test_who_is_not_root_builds_a_disk_whose_files_are_whose_they_should_be(place: Path) -> None:
    status, said = finish(build(place))
    assert status == 0, said
    disk = place / "disk.qcow2"
    assert disk.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(place)) == ["disk.qcow2", "work"]
    assert os.listdir(place / "work") == []
    assert owners_in(disk, place) == {
        "/etc/shadow": "0:42 0640",
        "/etc/passwd": "0:0 0644",
        "/usr/sbin/unix_chkpwd": "0:42 02755",
        "/var/mail": "0:8 02775",
        "/var/log/journal": "0:999 02755",
    }


def test_a_killed_build_leaves_no_process_and_the_next_one_sweeps_it(place: Path) -> None:
    process = build(place)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Unpacking"):
            break
    else:
        status, said = finish(process)
        pytest.skip(f"no packages here ({status}): {said[-500:]}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    gone, alive = psutil.wait_procs(processes_of(place), timeout=30)
    assert not alive, gone
    assert os.listdir(place / "work") != []
    status, said = finish(build(place, mirror="http://127.0.0.1:1/debian"))
    assert status == 1
    assert os.listdir(place / "work") == []
    assert not (place / "disk.qcow2").exists()


def test_a_mirror_that_can_not_be_reached_is_named(place: Path) -> None:
    status, said = finish(build(place, mirror="http://127.0.0.1:1/debian"))
    assert status == 1
    assert "the packages can't be fetched" in said
    assert "127.0.0.1" in said
    assert os.listdir(place) == ["work"]
    assert os.listdir(place / "work") == []


def test_without_any_mirror_the_tools_can_not_be_had(place: Path) -> None:
    sources, config = place / "sources.list", place / "apt.conf"
    sources.write_text("deb http://127.0.0.1:1/debian bookworm main\n")
    settings = {"Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": "/-", "Dir::State::Lists": place / "lists"}
    config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    status, said = finish(build(place, APT_CONFIG=str(config)))
    assert status == 1
    assert "AptError" in said
    assert os.listdir(place / "work") == []


def test_too_small_a_directory_is_refused_at_once(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=64m none "$1" && exec "$2" -c \'{BUILD}\' "$1" ""'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this host allows no mounts in a user namespace")
    assert "too little space is left to build in" in done.stderr
