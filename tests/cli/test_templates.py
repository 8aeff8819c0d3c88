"""Templates and forks on the command line, with the tiny guest; what is inside forks is seen by other tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from .conftest import PATIENCE, ROOT, Kvmctl

pytestmark = pytest.mark.qemu

QEMU = shutil.which(os.environ.get("KVMCTL_QEMU", "qemu-system-x86_64"))
CREATE = ("template", "create", "small", "--from", "tiny", "--until", "console:^READY")


def test_from_a_spec_to_forks_and_back_to_nothing(kvmctl: Kvmctl) -> None:
    made = kvmctl(*CREATE)
    assert made.stdout == "small\n"
    assert "no way was found to renew the guest" in made.stderr
    assert "there already" in kvmctl(*CREATE).stderr
    (listed,) = json.loads(kvmctl.ok("template", "list", "--json"))["templates"]
    assert (listed["name"], listed["in_use"], listed["problem"]) == ("small", False, None)
    assert listed["made_of"]["until"] == "console:^READY"
    assert "Usable:" in kvmctl.ok("template", "show", "small")

    assert kvmctl.ok("fork", "small").split() == ["small-1"]
    assert kvmctl.ok("fork", "small", "--count", "2").split() == ["small-2", "small-3"]
    assert kvmctl.ok("fork", "small", "x", "--count", "2").split() == ["x-1", "x-2"]
    names = ["small-1", "small-2", "small-3", "x-1", "x-2"]
    assert kvmctl.ok("list", "--quiet").split() == names
    refused = kvmctl("template", "rm", "small")
    assert refused.returncode == 7
    assert "small-1" in refused.stderr
    for name in names:
        kvmctl.ok("stop", name, "--force")
    kvmctl.ok("template", "rm", "small")
    assert json.loads(kvmctl.ok("template", "list", "--json"))["templates"] == []


def test_a_template_of_something_else_is_refused_and_says_how_to_go_on(kvmctl: Kvmctl) -> None:
    kvmctl.ok(*CREATE)
    other = kvmctl(*CREATE[:-1], "console:.*READY")
    assert other.returncode == 8
    assert "until was 'console:^READY', and is 'console:.*READY'" in other.stderr
    assert "--refresh" in other.stderr
    kvmctl.ok(*CREATE[:-1], "console:.*READY", "--refresh")


def test_measuring_leaves_nothing(kvmctl: Kvmctl) -> None:
    kvmctl.ok(*CREATE)
    table = kvmctl.ok("fork", "small", "--profile", "--count", "3")
    assert [line.split("  ")[0] for line in table.splitlines()][1:] == [
        "QEMU started",
        "QEMU answered",
        "state loaded",
        "running",
    ]  # a guest without an agent runs no commands
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_what_is_damaged_is_listed_with_the_reason_and_collected(kvmctl: Kvmctl) -> None:
    kvmctl.ok(*CREATE)
    (kvmctl.directory / "state/templates/small/device-state").unlink()
    assert "is missing" in kvmctl.ok("template", "list")
    assert kvmctl("fork", "small").returncode == 14
    assert kvmctl("template", "gc").returncode == 2
    assert kvmctl.ok("template", "gc", "--yes") == "small\n"
    assert kvmctl("fork", "small").returncode == 4


def test_a_guest_that_never_gets_there_is_given_up(kvmctl: Kvmctl) -> None:
    done = kvmctl("template", "create", "small", "--from", "tiny", "--until", "console:never", "--timeout", "0.5")
    assert done.returncode == 10
    assert "gave up after 0.5 s: bring it to where it is frozen (console:never)" in done.stderr
    assert "verdict: " in done.stderr
    assert kvmctl.ok("template", "list").splitlines()[1:] == []


def test_run_wants_a_machine_or_a_template(kvmctl: Kvmctl) -> None:
    assert kvmctl("run").returncode == 2
    missing = kvmctl("run", "--template", "none", "--", "true")
    assert missing.returncode == 125
    assert "there is no template 'none'" in missing.stderr


WAYS = pytest.mark.parametrize("options", [(), ("--count", "1")], ids=["quickly", "with-options"])
"""A plain fork goes another way than one with options, and is to be the same in everything."""


def test_a_plain_fork_is_started_with_next_to_nothing(kvmctl: Kvmctl) -> None:
    kvmctl.ok(*CREATE)
    for words in (("fork", "small"), ("fork", "small", "x")):
        loaded = kvmctl.modules(*words)
        assert "kvmctl.runtime.quickraise" in loaded
        assert not loaded & {"asyncio", "pydantic", "pydantic_core", "psutil", "qemu.qmp", "typer", "inotify_simple"}
        assert not loaded & {"dataclasses", "datetime", "difflib", "hashlib", "inspect", "pathlib", "secrets", "shutil"}
        assert not loaded & {"uuid", "kvmctl.plan.fork", "kvmctl.plan.card", "kvmctl.runtime.listing"}
    loaded = kvmctl.modules("fork", "small", "--count", "1")
    assert not loaded & {"pydantic", "kvmctl.compile", "rich"}
    for name in ("small-1", "x", "small-2"):
        kvmctl.ok("kill", name)


@WAYS
def test_a_fork_takes_the_next_free_name_or_the_one_that_it_is_given(kvmctl: Kvmctl, options: tuple[str, ...]) -> None:
    kvmctl.ok(*CREATE)
    for words, name in ((("small",), "small-1"), (("small",), "small-2"), (("small", "x"), "x")):
        assert kvmctl.ok("fork", *words, *options) == f"{name}\n"
    taken = kvmctl("fork", "small", "x", *options)
    assert taken.returncode == 6
    assert "machine 'x' is already running" in taken.stderr
    for name in ("small-1", "small-2", "x"):
        kvmctl.ok("kill", name)
        kvmctl.ok("rm", name, "--yes")
    assert kvmctl.ok("list", "--all", "--quiet") == ""


@WAYS
@pytest.mark.parametrize("words", [("fork", "none", "x"), ("fork", "../small"), ("fork", "small", "a/b")])
def test_names_that_are_none_are_refused(kvmctl: Kvmctl, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    kvmctl.ok(*CREATE)
    done = kvmctl(*words, *options)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [(), ("small", "--help"), ("small", "x", "y"), ("small", "--count", "0")])
def test_what_is_not_plain_is_typers(kvmctl: Kvmctl, words: tuple[str, ...]) -> None:
    done = kvmctl("fork", *words)
    assert done.returncode == (0 if "--help" in words else 2)
    assert "Usage: kvmctl fork" in done.stdout + done.stderr


@WAYS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_one_that_is_told_to_end_leaves_nothing(kvmctl: Kvmctl, options: tuple[str, ...], number: int) -> None:
    """While QEMU comes up, which takes for ever: the one that the template was made by now waits to be read from."""
    script, gate = kvmctl.directory / "qemu-system-x86_64", kvmctl.directory / "gate"
    script.write_text(
        f"#!/bin/sh\n[ -p '{gate}' ] && {{ echo up >'{gate}'; exec /bin/sleep 1000; }}\nexec {QEMU} \"$@\"\n"
    )
    script.chmod(0o755)
    kvmctl.environment |= {"KVMCTL_QEMU": str(script)}
    kvmctl.ok(*CREATE)
    os.mkfifo(gate)
    forking = kvmctl.popen("fork", "small", *options)
    assert gate.read_text() == "up\n"
    forking.send_signal(number)
    stdout, _ = forking.communicate(timeout=PATIENCE)
    assert (forking.returncode, stdout) == (128 + number, "")
    assert os.listdir(kvmctl.directory / "runtime") == []
    assert not json.loads(kvmctl.ok("template", "list", "--json"))["templates"][0]["in_use"]


@pytest.mark.linux
@pytest.mark.slow
def test_a_command_in_a_fork_has_its_output_and_exit_code_and_leaves_nothing(kvmctl: Kvmctl) -> None:
    built = subprocess.run([sys.executable, ROOT / "scripts/build-guest"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    kvmctl.ok("template", "create", "linux", "--from", str(ROOT / "machines/small-linux.toml"))
    run = ("run", "--template", "linux", "--")
    assert kvmctl.ok(*run, "uname", "-s") == "Linux\n"
    failed = kvmctl(*run, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (failed.returncode, failed.stdout) == (7, "out\n")
    assert failed.stderr.endswith("err\n")
    assert kvmctl.ok("list", "--all", "--quiet") == ""
    assert not any((kvmctl.directory / "runtime").iterdir())
    (listed,) = json.loads(kvmctl.ok("template", "list", "--json"))["templates"]
    assert not listed["in_use"]
