"""A QEMU that was halted (SIGSTOP) answers nobody: every command ends by its deadline, and says how to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from .conftest import PATIENCE, Kvmctl

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

UNANSWERED = [
    ["pause", "tiny"],
    ["resume", "tiny"],
    ["reset", "tiny"],
    ["screenshot", "tiny", "shot.png"],
    ["balloon", "tiny"],
    ["qmp", "tiny", "query-status"],
    ["fault", "nmi", "tiny"],
    ["info", "tiny", "--guest"],
    ["exec", "tiny", "--", "true"],
    ["exec", "tiny", "--timeout", "60", "--", "true"],
    ["cp", "file", "tiny:/tmp/file"],
    ["trim", "tiny"],
    ["sync-time", "tiny"],
]
ANSWERED_WITHOUT_IT = [
    ["list"],
    ["logs", "tiny"],
    ["events", "tiny"],
    ["verdict", "tiny"],
    ["wait", "tiny", "--for", "running"],
]


@pytest.fixture
def halted(kvmctl: Kvmctl) -> Iterator[int]:
    """The pid of a machine's QEMU that was halted."""
    (kvmctl.directory / "file").write_text("it")
    kvmctl.ok("start", "tiny")
    pid = json.loads(kvmctl.ok("list", "--json"))["machines"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    yield pid
    kvmctl.ok("kill", "tiny")


def ends_of(kvmctl: Kvmctl, commands: list[list[str]]) -> dict[str, subprocess.CompletedProcess[str]]:
    """How all of them end, at once."""
    running = [kvmctl.popen(*words, stdin=subprocess.DEVNULL) for words in commands]
    done = {}
    for words, process in zip(commands, running, strict=True):
        out, err = process.communicate(timeout=PATIENCE)
        done[" ".join(words)] = subprocess.CompletedProcess(words, process.returncode, out, err)
    return done


def test_what_needs_an_answer_says_why_none_came(kvmctl: Kvmctl, halted: int) -> None:
    for words, done in ends_of(kvmctl, UNANSWERED).items():
        assert done.returncode == (125 if words.startswith("exec") else 10), (words, done.stderr)
        assert "did not answer within 10 s" in done.stderr or "does not answer within 10 s" in done.stderr, words
        assert f"process {halted}" in done.stderr, (words, done.stderr)
        assert "SIGCONT would wake it" in done.stderr, (words, done.stderr)


def test_what_needs_none_is_answered(kvmctl: Kvmctl, halted: int) -> None:
    for words, done in ends_of(kvmctl, ANSWERED_WITHOUT_IT).items():
        assert done.returncode == 0, (words, done.stderr)
    assert kvmctl.ok("verdict", "tiny").startswith("qemu-halted: ")


def test_it_is_started_again(kvmctl: Kvmctl, halted: int) -> None:
    kvmctl.ok("restart", "tiny", "--timeout", "1")
    (machine,) = json.loads(kvmctl.ok("list", "--json"))["machines"]
    assert machine["pid"] != halted
    assert json.loads(kvmctl.ok("qmp", "tiny", "query-status"))["running"]
