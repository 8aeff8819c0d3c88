"""A QEMU that many ask, one that somebody else talks to, and one that was halted (SIGSTOP) and answers nobody."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
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


def test_fifty_commands_at_once_are_all_answered(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny")
    ends = ends_of(
        kvmctl, [*[["qmp", "tiny", "query-status"]] * 20, *[["show", "tiny"]] * 20, *[["info", "tiny"]] * 10]
    )
    assert [(words, err) for words, code, err in ends if code or err] == []
    kvmctl.ok("kill", "tiny")


def test_who_holds_the_monitor_is_named(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny")
    with socket.socket(socket.AF_UNIX) as held:
        held.connect(str(kvmctl.directory / "runtime/tiny/qmp.sock"))
        for words, code, error in ends_of(kvmctl, [["pause", "tiny"], ["qmp", "tiny", "query-status"]]):
            assert code == 7, (words, error)
            assert f"held by process {os.getpid()}" in error, words
        assert [machine["name"] for machine in json.loads(kvmctl.ok("list", "--json"))["machines"]] == ["tiny"]
    kvmctl.ok("pause", "tiny")
    kvmctl.ok("kill", "tiny")


@pytest.fixture
def halted(kvmctl: Kvmctl) -> Iterator[int]:
    """The pid of a machine's QEMU that was halted."""
    (kvmctl.directory / "file").write_text("it")
    kvmctl.ok("start", "tiny")
    pid = json.loads(kvmctl.ok("list", "--json"))["machines"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    yield pid
    kvmctl.ok("kill", "tiny")


def ends_of(kvmctl: Kvmctl, commands: list[list[str]]) -> list[tuple[str, int, str]]:
    """How all of them end, at once: each with its exit code, and what it says on its standard error."""
    running = [kvmctl.popen(*words, stdin=subprocess.DEVNULL) for words in commands]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in running]
    return [
        (" ".join(words), process.returncode, error)
        for words, process, error in zip(commands, running, errors, strict=True)
    ]


def test_what_needs_an_answer_says_why_none_came(kvmctl: Kvmctl, halted: int) -> None:
    for words, code, error in ends_of(kvmctl, UNANSWERED):
        assert code == (125 if words.startswith("exec") else 10), (words, error)
        assert re.search(r"(did|does) not answer within 10 s", error), (words, error)
        assert f"process {halted}" in error, (words, error)
        assert "SIGCONT would wake it" in error, (words, error)


def test_what_needs_none_is_answered(kvmctl: Kvmctl, halted: int) -> None:
    for words, code, error in ends_of(kvmctl, ANSWERED_WITHOUT_IT):
        assert code == 0, (words, error)
    assert kvmctl.ok("verdict", "tiny").startswith("qemu-halted: ")


def test_it_is_started_again(kvmctl: Kvmctl, halted: int) -> None:
    kvmctl.ok("restart", "tiny", "--timeout", "1")
    (machine,) = json.loads(kvmctl.ok("list", "--json"))["machines"]
    assert machine["pid"] != halted
    assert json.loads(kvmctl.ok("qmp", "tiny", "query-status"))["running"]
