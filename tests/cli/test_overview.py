"""The command line as a whole: the overview, the verb table, completion, errors and exit codes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvmctl import KvmctlError
from kvmctl.cli import main
from kvmctl.cli.verbs import GROUPS, VERBS, Verb

from .conftest import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def kvmctl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kvmctl", *words],
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def modules_after(*words: str) -> set[str]:
    """What is in memory when the command line is done."""
    source = (
        "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
        "from kvmctl.cli.entry import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, *words],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return set(done.stderr.split())


def test_the_overview_names_every_verb_under_its_heading() -> None:
    done = kvmctl("--help")
    assert done.returncode == 0
    for heading, verbs in GROUPS.items():
        section = done.stdout.split(f"\n{heading}:\n")[1].split("\n\n")[0]
        assert re.findall(r"^  (\S+)", section, re.MULTILINE) == [verb.name for verb in verbs]


def test_the_overview_and_the_version_load_no_verb_and_no_slow_library() -> None:
    for words in (["--help"], ["--version"], ["strat"]):
        loaded = modules_after(*words)
        assert "typer" in loaded
        assert not loaded & {"rich", "pydantic", "asyncio", "qemu.qmp", "psutil"}
        assert not loaded & {f"kvmctl.cli.{verb.module}" for verb in VERBS.values()}


def test_completing_a_verb_loads_no_verb() -> None:
    done = kvmctl(COMP_WORDS="kvmctl re", COMP_CWORD="1", _KVMCTL_COMPLETE="complete_bash")
    assert done.stdout.split() == ["restart", "reset", "resume"]


ALL = [verb for parent in VERBS.values() for verb in (parent, *parent.verbs)]


@pytest.mark.parametrize("verb", ALL, ids=lambda verb: f"{verb.module}.{verb.attribute}")
def test_a_verb_is_where_the_table_says_and_begins_with_its_line(verb: Verb) -> None:
    command = main.load_command(verb)
    assert command.name == verb.name
    assert (command.help or "").startswith(f"{verb.help}.\n\n")


def test_completing_the_verb_of_a_group_names_those_of_the_group() -> None:
    done = kvmctl(COMP_WORDS="kvmctl image p", COMP_CWORD="2", _KVMCTL_COMPLETE="complete_bash")
    assert done.stdout.split() == ["pull"]


def test_a_group_alone_prints_its_verbs_and_a_word_that_is_none_of_them_is_a_usage_error() -> None:
    done = kvmctl("image")
    assert done.returncode == 2
    assert "pull" in done.stdout + done.stderr
    done = kvmctl("image", "pul")
    assert done.returncode == 2
    assert "Did you mean 'pull'" in done.stderr


def test_a_word_that_is_no_verb_is_a_usage_error_with_a_suggestion() -> None:
    done = kvmctl("strat")
    assert done.returncode == 2
    assert "Did you mean 'start'" in done.stderr


def test_no_verb_prints_the_overview_and_is_a_usage_error() -> None:
    done = kvmctl()
    assert done.returncode == 2
    assert "Machine specs:" in done.stdout + done.stderr


def test_every_error_has_an_exit_code_of_its_own_and_a_meaning() -> None:
    codes = [code for code, _ in main.exit_codes()]
    assert len(codes) == len(set(codes))
    assert {error.exit_code for error in KvmctlError.__subclasses__()} <= set(codes)
    assert all(meaning for _, meaning in main.exit_codes())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one_the_shell_can_read(shell: str) -> None:
    done = kvmctl("completion", shell)
    assert done.returncode == 0
    assert "_KVMCTL_COMPLETE" in done.stdout
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on this host")
    subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


def test_bash_completes_verbs_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "kvmctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kvmctl "$@"\n')
    program.chmod(0o755)
    source = f"""
        PATH={tmp_path}:$PATH
        {kvmctl("completion", "bash").stdout}
        COMP_WORDS=(kvmctl sc) COMP_CWORD=1
        _kvmctl_completion kvmctl
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", source], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.split() == ["schema", "screenshot"]
