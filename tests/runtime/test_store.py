"""Claims, liveness and clearing away: kernel locks, no QEMU."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmctl.errors import AlreadyRunning, StateError
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import store

HOLD = """
import sys
from kvmctl.runtime import store
from kvmctl.plan.paths import MachinePaths
paths = MachinePaths(*sys.argv[1:4])
claim = store.claim(paths, is_captive=sys.argv[4] == "captive")
print("claimed", flush=True)
sys.stdin.read()
"""

KEEP_OPEN = """
import fcntl, os, struct, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.fcntl(lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def child(script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `script` and has printed its first line; it ends with the context."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(*(str(tmp_path / part) for part in ("config", "state", "run", "cache")))


@pytest.fixture
def paths(roots: Roots) -> MachinePaths:
    return roots.machine("web")


def claimant(paths: MachinePaths, kind: str = "start") -> tuple[str, ...]:
    return paths.name, paths.run, paths.state, kind


def test_a_machine_is_alive_exactly_while_its_lock_is_held(paths: MachinePaths) -> None:
    assert not store.is_alive(paths)
    claim = store.claim(paths, is_captive=False)
    assert store.is_alive(paths)
    claim.abandon()
    assert not store.is_alive(paths)


def test_the_second_claim_is_told_who_has_the_first(paths: MachinePaths) -> None:
    with child(HOLD, *claimant(paths)) as holder, pytest.raises(AlreadyRunning, match=f"held by process {holder.pid}"):
        store.claim(paths, is_captive=False)


def test_a_claim_within_one_process_excludes_as_well(paths: MachinePaths) -> None:
    claim = store.claim(paths, is_captive=False)
    with pytest.raises(AlreadyRunning):
        store.claim(paths, is_captive=False)
    claim.abandon()


def test_asking_takes_nothing(paths: MachinePaths) -> None:
    with child(HOLD, *claimant(paths)):
        for _ in range(100):
            assert store.is_alive(paths)
            assert store.is_tethered(paths)
    assert not store.is_alive(paths)


def test_a_dead_launchers_leftovers_are_cleared_by_the_next_claim(paths: MachinePaths) -> None:
    with child(HOLD, *claimant(paths)):
        pass
    assert os.path.exists(paths.tether)

    claim = store.claim(paths, is_captive=False)

    assert store.read_tether(paths) == (os.getpid(), False)
    claim.abandon()


def test_the_run_directory_of_a_dead_captive_is_swept(roots: Roots, paths: MachinePaths) -> None:
    with child(HOLD, *claimant(paths, "captive")):
        Path(paths.journal).write_text("")
        assert store.run_names(roots) == ["web"]

    store.sweep(roots)

    assert store.run_names(roots) == []


def test_sweeping_leaves_alone_what_lives(roots: Roots, paths: MachinePaths) -> None:
    with child(HOLD, *claimant(paths, "captive")):
        store.sweep(roots)
        assert store.run_names(roots) == ["web"]


def test_an_untethered_machine_is_not_swept(roots: Roots, paths: MachinePaths) -> None:
    claim = store.claim(paths, is_captive=False)
    Path(paths.plan).write_text("{}")
    claim.untether()
    claim.release_lock()

    store.sweep(roots)

    assert store.run_names(roots) == ["web"]


def test_a_qemu_whose_launcher_died_before_letting_it_go_is_killed(roots: Roots, paths: MachinePaths) -> None:
    with child(HOLD, *claimant(paths)) as launcher:
        launcher.kill()
        launcher.wait()
        with child(KEEP_OPEN, paths.lock) as orphan:
            store.sweep(roots)

            assert orphan.wait(timeout=10) == -9
    assert store.run_names(roots) == []


def test_the_process_is_found_by_the_lock_it_holds(paths: MachinePaths) -> None:
    os.makedirs(paths.run)
    with child(KEEP_OPEN, paths.lock) as qemu:
        found = store.find_process(paths)
        assert found is not None
        with found:
            assert found.pid == qemu.pid


def test_a_forged_pid_file_never_names_an_innocent(paths: MachinePaths) -> None:
    os.makedirs(paths.run)
    with child(KEEP_OPEN, paths.lock) as qemu, child("print(1, flush=True); input()") as innocent:
        Path(paths.pid).write_text(f"{innocent.pid}\n")
        found = store.find_process(paths)
        assert found is not None
        with found:
            assert found.pid == qemu.pid


@pytest.mark.parametrize("content", ["", "1\n", "-1\n", "999999999\n", "garbage", "0\n"])
def test_a_pid_file_of_nonsense_is_only_a_bad_hint(paths: MachinePaths, content: str) -> None:
    os.makedirs(paths.run)
    Path(paths.pid).write_text(content)
    assert store.find_process(paths) is None


def test_a_stale_runtime_directory_is_a_stopped_machine(paths: MachinePaths) -> None:
    os.makedirs(paths.run)
    Path(paths.lock).write_text("")
    Path(paths.pid).write_text(f"{os.getpid()}\n")

    assert not store.is_alive(paths)
    assert store.find_process(paths) is None


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_directories_are_0700_and_files_0600_under_any_umask(paths: MachinePaths, umask: int) -> None:
    before = os.umask(umask)
    try:
        claim = store.claim(paths, is_captive=False)
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(os.stat(os.path.join(paths.run, name)).st_mode) for name in os.listdir(paths.run)}
    run_mode = stat.S_IMODE(os.stat(paths.run).st_mode)
    claim.abandon()
    assert run_mode == 0o700
    assert set(modes.values()) == {0o600}


def test_abandoning_leaves_no_directory(roots: Roots, paths: MachinePaths) -> None:
    store.claim(paths, is_captive=True).abandon()
    assert os.listdir(roots.runtime) == []


def test_a_file_where_the_run_directory_should_be_is_named(paths: MachinePaths) -> None:
    os.makedirs(os.path.dirname(paths.run))
    Path(paths.run).write_text("")
    with pytest.raises(StateError, match="is in the way"):
        store.claim(paths, is_captive=False)


def ephemeral_disk(roots: Roots) -> Path:
    disk = Path(roots.machine("web", ephemeral=True).disks, "disk0.qcow2")
    disk.parent.mkdir(parents=True)
    disk.touch()
    return disk


def test_the_disks_of_an_ephemeral_run_are_not_in_the_run_directory_and_go_with_it(roots: Roots) -> None:
    paths = roots.machine("web", ephemeral=True)
    claim = store.claim(paths, is_captive=True)
    disk = ephemeral_disk(roots)
    assert not str(disk).startswith(roots.runtime)
    store.sweep(roots)
    assert disk.exists()
    claim.abandon()
    assert not disk.exists()


def test_the_disks_of_a_killed_ephemeral_run_are_swept(roots: Roots) -> None:
    paths = roots.machine("web", ephemeral=True)
    with child(HOLD, *claimant(paths, "captive")):
        disk = ephemeral_disk(roots)
    assert disk.exists()
    store.sweep(roots)
    assert not disk.exists()


def test_ephemeral_disks_whose_run_directory_is_gone_are_swept_and_never_used_again(roots: Roots) -> None:
    disk = ephemeral_disk(roots)
    store.sweep(roots)
    assert not disk.exists()
    disk = ephemeral_disk(roots)
    claim = store.claim(roots.machine("web", ephemeral=True), is_captive=True)
    assert not disk.exists()
    claim.abandon()


def test_a_defined_machines_disks_are_nobodys_to_sweep(roots: Roots) -> None:
    disk = Path(roots.machine("web").disks, "disk0.qcow2")
    disk.parent.mkdir(parents=True)
    disk.touch()
    claim = store.claim(roots.machine("web", ephemeral=True), is_captive=True)
    claim.abandon()
    store.sweep(roots)
    assert disk.exists()


REMOVED_MEANWHILE = """
import os, sys
from kvmctl.plan.paths import Roots
from kvmctl.runtime import listing

roots = Roots(*sys.argv[1:])
paths = roots.machine("web")

def remove(event, args):  # when it has a name already, and is about to be looked at
    if event == "open" and args[0] == paths.lock:
        os.rename(paths.run, f"{roots.runtime}/.web.trash")

sys.addaudithook(remove)
print([machine.name for machine in listing.list_machines(roots, include_stopped=True)])
"""


def test_a_machine_that_is_removed_while_it_is_listed_is_not_listed(roots: Roots, paths: MachinePaths) -> None:
    os.makedirs(paths.run)
    Path(paths.plan).write_text("{}")
    where = (roots.config, roots.state, roots.runtime, roots.cache)
    listed = subprocess.run(
        [sys.executable, "-c", REMOVED_MEANWHILE, *where], check=True, capture_output=True, text=True
    ).stdout
    assert os.listdir(roots.runtime) == [".web.trash"]
    assert listed == "[]\n"
