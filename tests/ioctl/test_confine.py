"""The program that confines another to a tree: what is read-only can't be written by anybody inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvmctl.ioctl import confine

UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.fixture(autouse=True)
def needs_namespaces() -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this host lets users make no user namespaces")


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A tree with a file, and an empty directory to see it in."""
    tree, mount = tmp_path / "the, tree", tmp_path / "mount"
    (tree / "below").mkdir(parents=True)
    (tree / "file").write_text("old")
    mount.mkdir()
    return tree, mount


def confined(mode: str, tree: Path, mount: Path, script: str, *, before: str = "") -> str:
    """What a shell script prints that runs confined, errors included; `before` is done outside, where one may mount."""
    program = [sys.executable, "-I", "-S", confine.__file__, mode, str(tree), str(mount), "--"]
    shell = ["/bin/sh", "-c", f'exec 2>&1; cd "{mount}"; {script}']
    outer = [*UNSHARE, "/bin/sh", "-c", f'{before} exec "$@"', "sh"] if before else []
    done = subprocess.run(
        [*outer, *program, *shell], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
    )
    return done.stdout + done.stderr


def test_a_tree_is_seen_where_it_is_mounted_and_by_nobody_else(places: tuple[Path, Path]) -> None:
    tree, mount = places
    assert confined("rw", tree, mount, "cat file; echo new >file") == "old"
    assert (tree / "file").read_text() == "new\n"
    assert not list(mount.iterdir())


@pytest.mark.parametrize(
    "attempt",
    [
        "echo x >file",
        "mkdir new",
        "rm file",
        "mount -o remount,bind,rw . && echo x >file",
        "mount -o remount,rw . && echo x >file",
        "cd / && umount {mount} && echo x >{mount}/file",
        "mount --bind . /mnt && mount -o remount,bind,rw /mnt && echo x >/mnt/file",
        "unshare -rm sh -c 'mount -o remount,bind,rw . && echo x >file'",
    ],
)
def test_what_is_read_only_is_not_written_whatever_is_tried(places: tuple[Path, Path], attempt: str) -> None:
    tree, mount = places
    confined("ro", tree, mount, attempt.format(mount=mount))
    assert [path.name for path in sorted(tree.iterdir())] == ["below", "file"]
    assert (tree / "file").read_text() == "old"


def test_what_is_mounted_below_is_there_and_read_only_too(places: tuple[Path, Path]) -> None:
    tree, mount = places
    before = f"mount -t tmpfs none '{tree}/below'; echo deep >'{tree}/below/file';"
    attempt = "cat below/file; echo x >below/file; mount -o remount,bind,rw below; echo x >below/file; cat below/file"
    output = confined("ro", tree, mount, attempt, before=before)
    assert output.count("deep\n") == 2
    assert output.count("Read-only file system") == 2


def test_what_is_mounted_later_does_not_come_through(places: tuple[Path, Path]) -> None:
    tree, mount = places
    pipes = [places[0].parent / name for name in ("ready", "go")]
    for pipe in pipes:
        os.mkfifo(pipe)
    ready, go = pipes
    later = f"(read x <'{ready}'; mount -t tmpfs none '{tree}/below'; touch '{tree}/below/late'; echo >'{go}') &"
    before = f"mount --make-rshared /; {later}"
    output = confined("ro", tree, mount, f"echo >'{ready}'; read x <'{go}'; ls below; echo seen", before=before)
    assert output == "seen\n"


def test_no_device_nodes_can_be_made(places: tuple[Path, Path]) -> None:
    tree, mount = places
    assert "Operation not permitted" in confined("rw", tree, mount, "mknod disk b 8 0")
    assert not (tree / "disk").exists()


def test_a_tree_that_is_not_there_is_named(places: tuple[Path, Path]) -> None:
    tree, mount = places
    said = confined("ro", tree / "gone", mount, "true")
    assert said == f"cannot share '{tree}/gone': {tree}/gone: No such file or directory\n"


def test_a_program_that_is_not_there_is_named(places: tuple[Path, Path]) -> None:
    tree, mount = places
    command = [sys.executable, "-I", "-S", confine.__file__, "ro", str(tree), str(mount), "--", "/no/such/program"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"cannot share '{tree}': /no/such/program: No such file or directory\n"
