"""Directories that can't be read or written, by a user who may not: said clearly, and what runs is still in reach."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime.conftest import end_all

from .conftest import PATIENCE, PROGRAM, Done, Kvmctl

pytestmark = [pytest.mark.qemu]

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
WAITING = ["wait", "web", "--for", "event:SHUTDOWN"]
SPEC = "memory = '16MiB'\nfirmware = 'qboot.rom'\n[boot]\nkernel = 'builtin:tiny'\n"


class User:
    """``kvmctl`` of somebody without privileges, and the directories that it uses."""

    def __init__(self, directory: Path, kvmctl: Kvmctl) -> None:
        self._wrap = () if os.geteuid() else NOBODY
        self.parts = {part: directory / part for part in ("config", "state", "runtime", "cache")}
        ours = {f"KVMCTL_{part.upper()}_DIR": str(path) for part, path in self.parts.items()}
        self._environment = kvmctl.environment | ours | {"HOME": str(directory)}
        for path in (directory, *self.parts.values(), self.parts["config"] / "machines"):
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
            if not os.geteuid():
                os.chown(path, 65534, 65534)

    def __call__(self, *words: str) -> Done:
        return subprocess.run(
            [*self._wrap, *PROGRAM, *words],
            env=self._environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def define(self, name: str) -> Path:
        path = self.parts["config"] / "machines" / f"{name}.toml"
        path.write_text(SPEC)
        path.chmod(0o644)
        return path


@pytest.fixture
def user(kvmctl: Kvmctl) -> Iterator[User]:
    with tempfile.TemporaryDirectory(prefix="kvmctl-test-") as directory:
        somebody = User(Path(directory), kvmctl)
        if somebody("--version").returncode:
            pytest.skip("a user without privileges can't read this Python")
        yield somebody
        for path in somebody.parts.values():
            path.chmod(0o700)
        somebody("kill", "web")
        leaked = end_all(directory)
        assert not leaked, f"left running: {leaked}"


def test_a_running_machine_is_in_reach_when_no_spec_can_be_read(user: User) -> None:
    user.define("web")
    assert user("start", "web").returncode == 0
    user.parts["config"].chmod(0)
    done = user("list")
    assert done.returncode == 14
    assert "machines': Permission denied" in done.stderr
    assert user("pause", "web").returncode == 0
    assert user("kill", "web").returncode == 0


def test_a_spec_that_can_not_be_read_is_not_one_that_is_not_there(user: User) -> None:
    user.define("tiny")
    user.parts["config"].chmod(0)
    for words in (["start", "tiny"], ["argv", "tiny"], ["edit", "tiny"], ["define", "/dev/null"], ["create", "web"]):
        done = user(*words)
        assert done.returncode == 14, words
        assert "Permission denied" in done.stderr
        assert "hint: Make it yours" in done.stderr
    assert not list(user.parts["runtime"].iterdir())


def test_a_machine_whose_state_can_not_be_kept_is_not_started(user: User) -> None:
    user.define("web")
    user.parts["state"].chmod(0o500)
    done = user("start", "web")
    assert done.returncode == 14
    assert "cannot create the directory" in done.stderr
    assert user("list", "--all").stdout.split()[-2:] == ["web", "stopped"]
    assert not list(user.parts["runtime"].iterdir())


def test_a_start_that_failed_leaves_no_machine_type_behind(user: User) -> None:
    spec = user.define("web")
    spec.write_text(f"extra_args = ['-device', 'nonsense']\n{SPEC}")
    assert user("start", "web").returncode == 9
    assert not list(user.parts["state"].iterdir())


@pytest.mark.parametrize("words", [["events"], ["list"], ["wait", "web", "--for", "running"], ["start", "web"]])
def test_a_runtime_directory_that_can_not_be_read_is_told(user: User, words: list[str]) -> None:
    user.define("web")
    user.parts["runtime"].chmod(0)
    done = user(*words)
    assert done.returncode == 14
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_that_is_not_ours_to_see_is_not_said_to_be_stopped(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny", "--name", "web")
    for words in (["wait", "web"], ["kill", "web"], ["logs", "--follow", "web"]):
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", *PROGRAM, *words],
            env=kvmctl.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        if "unshare" in done.stderr:
            pytest.skip("this host allows no user namespaces")
        assert done.returncode == 14
        assert "machine 'web' runs, but its process can't be seen from here" in done.stderr
    kvmctl.ok("kill", "web")


@pytest.mark.parametrize("words", [["events", "--follow"], ["logs", "--follow", "web"], WAITING])
def test_who_may_not_watch_any_more_files_is_told_the_limit(kvmctl: Kvmctl, words: list[str]) -> None:
    limited = 'kvmctl() { "$python" -m kvmctl "$@"; }; python=$1; shift; kvmctl start tiny --name web || exit'
    limited += '; echo 0 >/proc/sys/user/max_inotify_instances && kvmctl "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", limited, "sh", PROGRAM[0], *words],
        env=kvmctl.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    kvmctl("kill", "web")
    if "unshare" in done.stderr or "sh:" in done.stderr:
        pytest.skip("this host allows no user namespaces")
    assert done.returncode == 14
    assert "fs.inotify.max_user_instances" in done.stderr
