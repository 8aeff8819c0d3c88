"""What became of a machine, and faults, on the command line."""

from __future__ import annotations

import json

import pytest

from .conftest import Kvmctl

pytestmark = pytest.mark.qemu

BARE = "memory = '64MiB'\n[[disks]]\nsize = '1MiB'\n[[networks]]\ntype = 'user'\n"


@pytest.fixture
def bare(kvmctl: Kvmctl) -> Kvmctl:
    """A command line beside the spec of a machine that has nothing to boot from."""
    (kvmctl.directory / "bare.toml").write_text(BARE)
    return kvmctl


def test_a_wait_in_vain_ends_with_the_verdict(bare: Kvmctl) -> None:
    bare.ok("start", "./bare.toml")
    bare.ok("wait", "bare", "--for", "console:No bootable device", "--timeout", "60")
    done = bare("wait", "bare", "--for", "agent", "--timeout", "0.2")
    bare.ok("kill", "bare")
    assert done.returncode == 10
    said = done.stderr.splitlines()
    assert said[0] == "error: gave up after 0.2 s: wait for agent"
    assert "verdict: nothing-to-boot: the firmware found nothing to start" in said
    assert said[-2:] == [
        "  | No bootable device.",
        "hint: Give the machine a disk with a system on it, a kernel (boot.kernel), or another boot.order.",
    ]


def test_a_command_that_is_never_run_says_why(bare: Kvmctl) -> None:
    done = bare("run", "./bare.toml", "--timeout", "15", "--", "true")
    assert done.returncode == 124
    assert "verdict: nothing-to-boot: the firmware found nothing to start" in done.stderr


def test_the_verdict_on_a_run_that_is_over(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny", "--name", "web")
    kvmctl.ok("kill", "web")
    assert kvmctl.ok("verdict", "web") == "qemu-killed: QEMU was killed by `kvmctl kill`\n"
    assert json.loads(kvmctl.ok("verdict", "web", "--json")) == {
        "schema": 1,
        "name": "web",
        "kind": "qemu-killed",
        "summary": "QEMU was killed by `kvmctl kill`",
        "evidence": [],
        "hint": None,
    }


def test_there_is_no_verdict_on_what_is_not_there(kvmctl: Kvmctl) -> None:
    done = kvmctl("verdict", "nobody")
    assert done.returncode == 4
    assert "'nobody'" in done.stderr


def test_faults_come_and_go_by_command(bare: Kvmctl) -> None:
    bare.ok("start", "./bare.toml")
    for words in (
        ["network", "bare", "down"],
        ["network", "bare", "up", "--card", "net0"],
        ["disk", "bare", "fail", "--on", "write", "--offset", "512KiB", "--once"],
        ["disk", "bare", "full"],
        ["disk", "bare", "slow", "--rate", "1MiB", "--iops", "10"],
        ["disk", "bare", "mend", "--disk", "disk0"],
        ["nmi", "bare"],
        ["stall", "bare", "0.1"],
    ):
        bare.ok("fault", *words)
    nodes = json.loads(bare.ok("qmp", "bare", "query-named-block-nodes"))
    assert {node["node-name"] for node in nodes} == {"disk0", "disk0-file"}
    bare.ok("kill", "bare")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["disk", "web", "slow"], "slow, and only that, has a rate or a number of requests"),
        (["disk", "web", "fail", "--rate", "1MiB"], "slow, and only that"),
        (["disk", "web", "mend", "--once"], "mend fails no request"),
        (["disk", "web", "slow", "--rate", "much"], "--rate"),
        (["disk", "web", "melt"], "'melt' is not one of"),
        (["network", "web", "sideways"], "'sideways' is not one of"),
        (["disk"], "NAME"),
    ],
)
def test_a_fault_that_there_is_not_is_a_wrong_command_line(kvmctl: Kvmctl, words: list[str], says: str) -> None:
    done = kvmctl("fault", *words)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_machine_without_a_disk_has_none_to_fail(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny", "--name", "web")
    done = kvmctl("fault", "disk", "web", "fail")
    kvmctl.ok("kill", "web")
    assert done.returncode == 4
    assert done.stderr == "error: machine 'web' has no disk\n"


def test_a_machine_that_does_not_run_has_no_faults(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    done = kvmctl("fault", "nmi", "web")
    assert done.returncode == 5
