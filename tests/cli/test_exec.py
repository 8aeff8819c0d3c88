"""``exec`` and ``run -- COMMAND`` on a real Linux: streams, exit codes, deadlines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from signal import SIGINT

import pytest

from .conftest import PATIENCE, ROOT, Kvmctl, command_line_of

pytestmark = [pytest.mark.linux, pytest.mark.slow]

SPEC = str(ROOT / "machines" / "small-linux.toml")


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Kvmctl]:
    """A command line whose machine ``web`` is a Linux with a guest agent that answers."""
    build = [sys.executable, ROOT / "scripts/build-guest", "-o", ROOT / "machines/images/small-linux"]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    with command_line_of(tmp_path_factory.mktemp("linux"), pytestconfig) as kvmctl:
        kvmctl.ok("start", SPEC, "--name", "web")
        kvmctl.ok("wait", "web", "--for", "agent", "--timeout", str(PATIENCE))
        yield kvmctl
        kvmctl("kill", "web")


def test_output_and_errors_keep_apart_and_the_exit_code_is_the_commands(linux: Kvmctl) -> None:
    done = linux("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)


def test_a_command_that_is_not_there_and_one_that_can_not_be_run_are_told_apart(linux: Kvmctl) -> None:
    assert linux("exec", "web", "--", "no-such-command").returncode == 127
    assert linux("exec", "web", "--", "/etc/hostname").returncode == 126


def test_a_command_that_a_signal_ended_says_which(linux: Kvmctl) -> None:
    assert linux("exec", "web", "--", "sh", "-c", "kill -9 $$").returncode == 128 + 9


def test_a_command_whose_time_is_up_is_ended(linux: Kvmctl) -> None:
    done = linux("exec", "web", "--timeout", "1", "--", "sleep", "1000")
    assert done.returncode == 124
    assert "gave up after 1 s" in done.stderr
    assert linux("exec", "web", "--", "sh", "-c", "ps | grep -q '[s]leep 1000'").returncode == 1


def test_variables_and_input_reach_the_command(linux: Kvmctl) -> None:
    assert linux.ok("exec", "web", "--env", "A=b=c", "--", "sh", "-c", 'echo "$A"') == "b=c\n"
    assert linux.ok("exec", "web", "--stdin", "--", "wc", "-c", stdin="x" * 100_000).strip() == "100000"
    assert linux("exec", "web", "--env", "A", "--", "true").returncode == 2


def test_options_after_the_dashes_are_the_commands_own(linux: Kvmctl) -> None:
    assert linux.ok("exec", "web", "--", "echo", "--timeout", "-e") == "--timeout -e\n"


def test_a_lot_of_output_comes_whole(linux: Kvmctl) -> None:
    assert linux.ok("exec", "web", "--", "seq", "100000").split() == [str(number) for number in range(1, 100001)]


def test_memory_is_given_back(linux: Kvmctl) -> None:
    assert json.loads(linux.ok("balloon", "web", "192MiB", "--json"))["actual"] == 192 << 20
    linux.ok("balloon", "web", "256MiB")


def test_run_with_a_command_boots_runs_and_leaves_nothing(kvmctl: Kvmctl) -> None:
    done = kvmctl("run", SPEC, "--", "sh", "-c", "uname -s; exit 3")
    assert (done.stdout, done.returncode) == ("Linux\n", 3)
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_run_with_a_command_gives_up_in_time(kvmctl: Kvmctl) -> None:
    assert kvmctl("run", SPEC, "--timeout", "0.5", "--", "true").returncode == 124
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_the_second_signal_ends_what_run_runs(kvmctl: Kvmctl) -> None:
    stubborn = "trap 'echo no' INT; echo up; while :; do sleep 0.1; done"
    with kvmctl.popen("run", SPEC, "--", "sh", "-c", stubborn) as running:
        assert running.stdout is not None
        for said in ("up\n", "no\n"):
            assert running.stdout.readline() == said
            running.send_signal(SIGINT)
        _, talk = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + SIGINT
    assert "Traceback" not in talk
    assert kvmctl.ok("list", "--all", "--quiet") == ""
