"""The command line as people run it: processes of its own, real machines, directories of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runtime.conftest import end_all
from sshguest import SshGuest, build

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (sys.executable, "-m", "kvmctl")
PATIENCE = 60
"""Seconds. Far above any answer, below a test runner's patience."""

Done = subprocess.CompletedProcess[str]


class Kvmctl:
    """The command line, in the directory and the environment of one test."""

    def __init__(self, directory: Path, environment: dict[str, str], *, wrap: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.environment = environment
        self.patience: float = PATIENCE
        self._program = (*wrap, *PROGRAM)

    def __call__(self, *words: str, stdin: str = "", **environment: str) -> Done:
        """Run ``kvmctl`` with `words` to its end."""
        return subprocess.run(
            [*self._program, *words],
            env=self.environment | environment,
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=self.patience,
        )

    def ok(self, *words: str, stdin: str = "", **environment: str) -> str:
        """What it prints when it succeeds, as it must."""
        done = self(*words, stdin=stdin, **environment)
        assert done.returncode == 0, f"kvmctl {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def popen(self, *words: str, stdin: int = subprocess.PIPE, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start ``kvmctl`` and leave it running, in a session of its own."""
        return subprocess.Popen(
            [*self._program, *words],
            env=self.environment,
            cwd=self.directory,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def modules(self, *words: str, stdin: str = "") -> set[str]:
        """What is in memory at the end of a successful ``kvmctl``."""
        source = (
            "import sys, atexit; atexit.register(lambda: print('\\n', *sys.modules, file=sys.stderr)); "
            "from kvmctl.cli.entry import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", source, *words],
            env=self.environment,
            cwd=self.directory,
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        return set(done.stderr.rpartition("\n ")[2].split())


@contextmanager
def command_line_of(directory: Path, pytestconfig: pytest.Config) -> Iterator[Kvmctl]:
    """The command line of a user who has no machines; what is left running at the end is an error."""
    cache = pytestconfig.cache
    assert cache is not None
    kept = {name: value for name, value in os.environ.items() if name == "KVMCTL_QEMU" or "KVMCTL" not in name}
    ours = {f"KVMCTL_{part}_DIR": str(directory / part.lower()) for part in ("CONFIG", "STATE", "RUNTIME")}
    try:
        yield Kvmctl(directory, kept | ours | {"KVMCTL_CACHE_DIR": str(cache.mkdir("kvmctl")), "PYTHONPATH": str(ROOT)})
    finally:  # a fixture that fails on its way is not asked to clear away
        leaked = end_all(str(directory))
    assert not leaked, f"left running: {leaked}"


@pytest.fixture
def kvmctl(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Kvmctl]:
    """A command line for one test."""
    with command_line_of(tmp_path, pytestconfig) as ours:
        yield ours


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> SshGuest:
    """A small Linux with an ssh server."""
    return build(tmp_path_factory.mktemp("guest"))
