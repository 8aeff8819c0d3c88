"""What a start makes beside its run directory goes with a start that is broken off, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.made import Made, keep, unmake

from .conftest import tiny
from .scripts import PRELUDE


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    (tmp_path / "run").mkdir()
    return MachinePaths("web", str(tmp_path / "run"), str(tmp_path / "state"), scratch=str(tmp_path / "scratch"))


def make_image(paths: MachinePaths, path: Path) -> None:
    made = Made(paths)
    made.directory(str(path.parent))
    hold = made.image(str(path))
    part = Path(f"{path}.{os.getpid()}.part")
    part.write_bytes(bytes(512))
    hold.on_made(str(part))
    part.rename(path)


def test_an_image_goes_with_the_directories_made_for_it(paths: MachinePaths, tmp_path: Path) -> None:
    make_image(paths, tmp_path / "some/where/disk.img")
    unmake(paths, was_held=False)
    assert sorted(os.listdir(tmp_path)) == ["run"]
    assert os.listdir(paths.run) == []


def test_an_image_that_was_kept_stays(paths: MachinePaths, tmp_path: Path) -> None:
    make_image(paths, tmp_path / "disk.img")
    keep(paths)
    unmake(paths, was_held=True)
    assert (tmp_path / "disk.img").exists()


def test_half_an_image_goes_and_its_neighbours_stay(paths: MachinePaths, tmp_path: Path) -> None:
    Made(paths).image(str(tmp_path / "disk.img"))
    names = ["disk.img", "disk.img.1.part", "other.img", f"disk.img.{os.getpid()}.backup"]
    for name in (*names, f"disk.img.{os.getpid()}.part"):
        (tmp_path / name).touch()
    unmake(paths, was_held=False)
    assert {*os.listdir(tmp_path)} == {"run", *names}, "an image that came to be there meanwhile is somebody's"


@pytest.mark.parametrize("was_held", [True, False])
def test_an_image_in_the_place_of_the_one_that_was_made_stays(
    paths: MachinePaths, tmp_path: Path, *, was_held: bool
) -> None:
    path = tmp_path / "disk.img"
    make_image(paths, path)
    (tmp_path / "mine").write_bytes(bytes(512))
    os.replace(tmp_path / "mine", path)
    unmake(paths, was_held=was_held)
    assert path.exists()


def test_an_image_that_was_written_to_goes_only_if_nobody_else_can_have_done_it(
    paths: MachinePaths, tmp_path: Path
) -> None:
    path = tmp_path / "disk.img"
    for was_held in (False, True):
        path.unlink(missing_ok=True)
        make_image(paths, path)
        path.write_bytes(b"of a guest")
        unmake(paths, was_held=was_held)
        assert path.exists() is not was_held


def test_an_image_that_is_in_use_stays(paths: MachinePaths, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    make_image(paths, path)
    with path.open("r+b") as file:
        ofd.try_lock_byte(file.fileno(), 201)  # as a QEMU does that has it
        unmake(paths, was_held=True)
    assert path.exists()


def test_a_file_that_was_replaced_is_what_it_was(paths: MachinePaths, tmp_path: Path) -> None:
    path = tmp_path / "machine-type"
    path.write_text("pc-q35-7.2")
    Made(paths).replaced(str(path), text="pc-q35-7.2")
    path.write_text("pc-q35-10.0")
    unmake(paths, was_held=False)
    assert path.read_text() == "pc-q35-7.2"


def test_what_goes_with_the_run_is_not_on_record(paths: MachinePaths) -> None:
    made = Made(paths)
    made.directory(f"{paths.run}/state/disks")
    made.directory(paths.scratch)
    made.file(f"{paths.scratch}/disk0.qcow2")
    assert not os.path.exists(paths.made)


def test_a_record_that_was_cut_off_is_as_good_as_it_goes(paths: MachinePaths, tmp_path: Path) -> None:
    make_image(paths, tmp_path / "disk.img")
    with open(paths.made, "a", encoding="utf-8") as file:
        file.write('{"kind": "file", "pa')
    unmake(paths, was_held=False)
    assert not (tmp_path / "disk.img").exists()


def test_what_can_not_be_removed_is_left_and_keeps_nobody(paths: MachinePaths, tmp_path: Path) -> None:
    Made(paths).file(str(tmp_path / "busy"))
    (tmp_path / "busy").mkdir()
    unmake(paths, was_held=False)
    assert os.listdir(paths.run) == []


HANGING = """
os.environ["KVMCTL_QEMU"] = sys.argv[1]
asyncio.run(start(tiny(disks=[{"path": sys.argv[2], "format": "raw", "size": "1MiB"}])))
"""


@pytest.mark.qemu
def test_a_qemu_img_that_outlives_its_killed_launcher_is_ended_by_the_next_command(
    roots: Roots, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "began")
    disk = tmp_path / "disk.img"
    real = os.path.realpath(kvmctl.prepare(tiny()).plan.qemu)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/qemu").symlink_to(real)
    script = tmp_path / "bin/qemu-img"
    # As one whose disk is slow: it has begun the file, and goes on whatever becomes of its parent.
    script.write_text(
        "#!/bin/sh\n"
        'for word; do case $word in *.part) : >"$word";; esac; done\n'
        f"echo $$ >{tmp_path}/began\n"
        "exec tail -f /dev/null\n"
    )
    script.chmod(0o700)
    with subprocess.Popen([sys.executable, "-c", PRELUDE + HANGING, str(tmp_path / "bin/qemu"), str(disk)]) as launcher:
        made_by = psutil.Process(int((tmp_path / "began").read_text()))
        launcher.kill()
    assert list(tmp_path.glob("disk.img.*.part"))
    assert kvmctl.list_machines(include_stopped=True) == []
    made_by.wait(timeout=10)
    assert not list(tmp_path.glob("disk.img*"))
    assert os.listdir(roots.runtime) == []
