"""The commands that wait within a guest do so in any shell that a guest may have: here in this host's own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvmctl.guest import watches

PATIENCE = 30

SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]


@pytest.fixture(params=SHELLS, ids=lambda words: words[0])
def shell(request: pytest.FixtureRequest) -> list[str]:
    words: list[str] = request.param
    if shutil.which(words[0]) is None:
        pytest.skip(f"there is no {words[0]}")
    return words


@contextmanager
def waiting(shell: list[str], argv: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The watch `argv`, begun, its shell replaced by `shell`."""
    with subprocess.Popen(
        [*shell, *argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    ) as watch:
        try:
            yield watch
        finally:
            watch.kill()


def line(watch: subprocess.Popen[str]) -> str:
    assert watch.stdout is not None
    return watch.stdout.readline().strip()


def end(watch: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = watch.communicate(timeout=PATIENCE)
    assert err == ""
    return watch.returncode, out


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_port_is_waited_for_until_something_listens_on_it(shell: list[str], address: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        try:
            server.bind((address, 0))
        except OSError as error:
            pytest.skip(f"{address} is not to be had here: {error.strerror}")
        port = server.getsockname()[1]
        with waiting(shell, watches.watch_port(port)) as watch:
            first = watches.describe_ports(line(watch))
            assert first.startswith("listening: ")
            assert str(port) not in first.split()
            server.listen()
            code, _ = end(watch)
    assert code == 0


def test_a_port_that_something_is_connected_from_is_not_listened_on(shell: list[str]) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        waiting(shell, watches.watch_port(client.getsockname()[1])) as watch,
    ):
        line(watch)
        assert watch.poll() is None


def test_ports_are_shown_as_people_know_them() -> None:
    assert watches.describe_ports("listening: 1F90 0016 0016") == "listening: 22, 8080"
    assert watches.describe_ports("listening:") == "listening: nothing"
    assert watches.describe_ports("listening: what a guest makes up") == "listening: what a guest makes up"


def test_a_command_is_tried_until_it_succeeds_and_what_it_said_is_told(shell: list[str], tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    command = f"echo looking; echo almost >&2; test -e {flag} && printf '%s\\n' 'there: a\\b $x'"
    with waiting(shell, watches.watch_command(command)) as watch:
        assert line(watch) == "exit code 1: almost"
        flag.touch()
        assert end(watch) == (0, "there: a\\b $x\n")


def test_a_command_that_says_nothing_is_waited_for_as_well(shell: list[str], tmp_path: Path) -> None:
    with waiting(shell, watches.watch_command(f"test -e {tmp_path / 'flag'} || exit 7")) as watch:
        assert line(watch) == "exit code 7"
        (tmp_path / "flag").touch()
        assert end(watch) == (0, "\n")


SYSTEMCTL = """#!/bin/sh
echo "LoadState=loaded"
echo "Type=${UNIT_TYPE:-simple}"
cat "$UNIT_STATE"
"""
JOURNALCTL = """#!/bin/sh
case "$*" in
    *--follow*) exec cat "$UNIT_JOURNAL" ;;
    *) echo "bind: Address already in use" ;;
esac
"""


class Unit:
    """A systemd with one unit whose state a test sets, and a journal in which it is told of."""

    def __init__(self, directory: Path) -> None:
        self._state, self._journal = directory / "state", directory / "journal"
        os.mkfifo(self._journal)
        for name, text in {"systemctl": SYSTEMCTL, "journalctl": JOURNALCTL}.items():
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)
        self.environment = {
            "PATH": f"{directory}:{os.environ['PATH']}",
            "UNIT_STATE": str(self._state),
            "UNIT_JOURNAL": str(self._journal),
        }

    def become(self, state: str, **properties: str) -> None:
        active, _, sub = state.partition("/")
        properties = {"ActiveState": active, "SubState": sub, "Result": "success", **properties}
        fresh = self._state.with_suffix(".new")
        fresh.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        fresh.rename(self._state)

    def speak(self) -> None:
        with self._journal.open("w") as journal:
            journal.write("Something happened.\n")


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def test_a_unit_is_waited_for_until_it_is_active(shell: list[str], unit: Unit) -> None:
    unit.become("activating/start-pre")
    with waiting(shell, watches.watch_unit("web.service"), **unit.environment) as watch:
        assert line(watch) == "activating (start-pre)"
        unit.become("active/running")
        unit.speak()
        assert end(watch) == (0, "active (running)\n")


def test_a_unit_that_fails_is_told_with_its_last_words(shell: list[str], unit: Unit) -> None:
    unit.become("failed/failed", Result="exit-code")
    with waiting(shell, watches.watch_unit("web.service"), **unit.environment) as watch:
        code, said = end(watch)
    assert code == watches.FAILED
    assert said == "failed (failed)\nfailed: exit-code\nbind: Address already in use\n"


def test_a_unit_that_runs_once_is_waited_for_until_it_has_run(shell: list[str], unit: Unit) -> None:
    unit.become("inactive/dead", ExecMainExitTimestampMonotonic="0")
    environment = unit.environment | {"UNIT_TYPE": "oneshot"}
    with waiting(shell, watches.watch_unit("once.service"), **environment) as watch:
        assert line(watch) == "inactive (dead)"
        unit.become("inactive/dead", ExecMainExitTimestampMonotonic="1234")
        unit.speak()
        assert end(watch) == (0, "inactive (has run)\n")


def test_a_unit_is_looked_at_again_though_its_journal_is_silent(shell: list[str], unit: Unit) -> None:
    unit.become("inactive/dead")
    with waiting(shell, watches.watch_unit("web.service"), **unit.environment) as watch:
        assert line(watch) == "inactive (dead)"
        unit.become("active/running")
        assert end(watch) == (0, "active (running)\n")


def test_a_watch_that_nobody_waits_for_leaves_nothing(shell: list[str], unit: Unit, tmp_path: Path) -> None:
    unit.become("inactive/dead")
    environment = unit.environment | {"TMPDIR": str(tmp_path)}
    with waiting(shell, watches.watch_unit("web.service"), **environment) as watch:
        line(watch)
        watch.terminate()
        end(watch)  # which waits for the end of all that hold its output, the followers of the journal among them


def test_a_guest_that_has_not_what_it_takes_says_so(shell: list[str], tmp_path: Path) -> None:
    sh = shutil.which(shell[0])
    assert sh is not None
    for argv in (watches.watch_unit("web"), watches.watch_cloud_init()):
        with waiting([sh, *shell[1:]], argv, PATH=str(tmp_path)) as watch:
            assert end(watch) == (watches.MISSING, "")


class CloudInit:
    """A cloud-init of which a test says how far it is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        program = directory / "cloud-init"
        program.write_text('#!/bin/sh\necho "status: error"; echo "detail: no such package"\n')
        program.chmod(0o755)
        self.environment = {"PATH": f"{directory}:{os.environ['PATH']}"}
        self.argv = [*watches.watch_cloud_init()[:-1], str(directory)]

    def write(self, name: str, document: object) -> None:
        fresh = self._directory / "new"
        fresh.write_text(json.dumps(document, indent=1))
        fresh.rename(self._directory / name)


@pytest.fixture
def cloud_init(tmp_path: Path) -> CloudInit:
    return CloudInit(tmp_path)


@pytest.mark.parametrize(
    ("errors", "code", "said"),
    [
        ([], 0, "status: done\n"),
        (["no such package"], watches.FAILED, "status: error\ndetail: no such package\n"),
    ],
)
def test_cloud_init_is_waited_for_to_its_end(
    shell: list[str], cloud_init: CloudInit, errors: list[str], code: int, said: str
) -> None:
    with waiting(shell, cloud_init.argv, **cloud_init.environment) as watch:
        assert line(watch) == "in stage none"
        cloud_init.write("status.json", {"v1": {"init": {"errors": []}, "stage": "modules-final"}})
        assert line(watch) == "in stage modules-final"
        cloud_init.write("result.json", {"v1": {"datasource": "DataSourceNoCloud", "errors": errors}})
        assert end(watch) == (code, said)


def test_a_cloud_init_that_was_switched_off_has_nothing_to_do(shell: list[str], cloud_init: CloudInit) -> None:
    cloud_init.write("disabled", None)
    with waiting(shell, cloud_init.argv, **cloud_init.environment) as watch:
        assert end(watch) == (0, "status: disabled\n")
