"""Templates and forks on the command line, with the tiny guest; what is inside forks is seen by other tests."""

from __future__ import annotations

import json

import pytest

from .conftest import Kvmctl

pytestmark = pytest.mark.qemu

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
        "first exec done",
    ]
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


def test_a_fork_is_started_without_the_compiler(kvmctl: Kvmctl) -> None:
    kvmctl.ok(*CREATE)
    loaded = kvmctl.modules("fork", "small")
    assert not loaded & {"pydantic", "kvmctl.compile", "rich"}
    kvmctl.ok("stop", "small-1", "--force")
