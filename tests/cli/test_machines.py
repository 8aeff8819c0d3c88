"""Starting, listing, showing and ending machines from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Kvmctl

pytestmark = pytest.mark.qemu


@pytest.fixture
def web(kvmctl: Kvmctl) -> Iterator[Kvmctl]:
    """A command line whose machine ``web`` runs, and is ended at last."""
    assert kvmctl.ok("start", "tiny", "--name", "web") == "web\n"
    yield kvmctl
    kvmctl("kill", "web")


def test_start_prints_the_name_and_leaves_the_machine_running(web: Kvmctl) -> None:
    assert web.ok("list", "--quiet") == "web\n"


def test_list_names_running_machines_and_with_all_the_others(web: Kvmctl) -> None:
    heading, row = web.ok("list").splitlines()
    assert heading.split() == ["NAME", "STATE", "CPUS", "MEMORY", "ACCEL", "PID", "UP", "NOTE"]
    assert row.split()[:5] == ["web", "running", "1", "16", "MiB"]
    web.ok("kill", "web")
    assert web.ok("list", "--quiet") == ""
    assert web.ok("list", "--all").splitlines()[1].split()[:3] == ["web", "stopped", "killed"]


def test_list_as_json_keeps_its_contract(web: Kvmctl) -> None:
    document = json.loads(web.ok("list", "--json"))
    assert document["schema"] == 1
    (machine,) = document["machines"]
    assert machine["name"] == "web"
    assert machine["state"] == "running"
    assert machine["memory"] == 16 << 20
    assert machine["started"].endswith("Z")
    assert machine["exit"] is None


def test_show_tells_what_the_machine_was_started_with(web: Kvmctl) -> None:
    record = json.loads(web.ok("show", "web", "--json"))
    assert record["status"]["state"] == "running"
    assert record["plan"]["spec"]["memory"]["size"] == 16 << 20
    assert f"Process:      {record['pid']}\n" in web.ok("show", "web")


def test_a_stopped_machine_tells_how_it_ended(web: Kvmctl) -> None:
    result = json.loads(web.ok("stop", "web", "--json"))
    assert (result["step"], result["exit"]["reason"]) == ("agent", "guest-shutdown")
    assert "Last run:     guest-shutdown" in web.ok("show", "web")
    assert web.ok("wait", "web") == "guest-shutdown\n"


def test_a_forced_stop_does_not_ask_the_guest(web: Kvmctl) -> None:
    assert json.loads(web.ok("stop", "web", "--force", "--json"))["exit"]["reason"] == "host-quit"


def test_a_guest_that_ignores_the_button_is_stopped_when_its_time_is_up(kvmctl: Kvmctl) -> None:
    spec = "[boot]\nkernel = 'builtin:tiny'\ncmdline = 'deaf'\n[agent]\ntransport = 'virtio'\n"
    Path(kvmctl.directory, "deaf.toml").write_text(f"memory = '16MiB'\nfirmware = 'qboot.rom'\n{spec}")
    kvmctl.ok("start", "./deaf.toml")
    kvmctl.ok("wait", "deaf", "--for", "console:^READY")
    done = kvmctl("stop", "deaf", "--timeout", "0.5")
    assert done.returncode == 0
    assert "asked by the power button, twice: still running" in done.stderr
    assert "QEMU was told to quit" in done.stderr


def test_what_does_not_run_can_not_be_stopped(kvmctl: Kvmctl) -> None:
    kvmctl.ok("define", str(Path(__file__).parents[2] / "kvmctl/guest/tiny/tiny.toml"))
    done = kvmctl("stop", "tiny")
    assert done.returncode == 5
    assert done.stderr == "error: machine 'tiny' is not running\nhint: Start it: kvmctl start tiny\n"


def test_a_machine_from_a_file_is_started_again_by_its_file(web: Kvmctl) -> None:
    web.ok("kill", "web")
    for verb, code in (("stop", 5), ("start", 4)):
        done = web(verb, "web")
        assert done.returncode == code
        command = done.stderr.partition("hint: Start it: kvmctl ")[2]
        assert command == "start tiny --name web\n"
    assert web.ok(*command.split()) == "web\n"


def test_a_machine_that_is_not_there_is_told_with_the_nearest_name(web: Kvmctl) -> None:
    done = web("stop", "wbe")
    assert done.returncode == 4
    assert "Did you mean 'web'?" in done.stderr


def test_a_second_start_reports_already_running(web: Kvmctl) -> None:
    done = web("start", "tiny", "--name", "web")
    assert done.returncode == 6
    assert "already running" in done.stderr


@pytest.mark.parametrize("name", ["../web", "a/b", "-x", "", "a\nb", "a,b", "x" * 65])
def test_what_can_not_be_a_name_is_refused_and_nothing_is_touched(kvmctl: Kvmctl, name: str) -> None:
    victim = kvmctl.directory / "web"
    victim.mkdir()
    for words in (["stop", "--", name], ["rm", "--yes", "--", name], ["start", "tiny", f"--name={name}"]):
        done = kvmctl(*words)
        assert done.returncode == 4
        assert "Traceback" not in done.stderr
    assert victim.is_dir()


def test_pausing_and_resuming_is_seen_in_the_list(web: Kvmctl) -> None:
    web.ok("pause", "web")
    assert web.ok("list").splitlines()[1].split()[1] == "paused"
    web.ok("resume", "web")
    assert web.ok("list").splitlines()[1].split()[1] == "running"


def test_reset_boots_again(web: Kvmctl) -> None:
    web.ok("wait", "web", "--for", "console:^READY")
    web.ok("reset", "web")
    assert "RESET" in web.ok("events", "web")


def test_restart_is_a_new_process_of_the_same_name(web: Kvmctl) -> None:
    before = json.loads(web.ok("list", "--json"))["machines"][0]["pid"]
    assert web.ok("restart", "web") == "web\n"
    (machine,) = json.loads(web.ok("list", "--json"))["machines"]
    assert machine["name"] == "web"
    assert machine["pid"] != before


def test_restart_ends_nothing_that_can_not_be_started_again(kvmctl: Kvmctl) -> None:
    spec = kvmctl.directory / "web.toml"
    spec.write_text("memory = '16MiB'\n")
    kvmctl.ok("start", str(spec))
    spec.write_text("memory = '16MB'\n")
    assert kvmctl("restart", "web").returncode == 3
    spec.unlink()
    assert kvmctl("restart", "web").returncode == 4
    assert kvmctl.ok("list", "--quiet") == "web\n"
    kvmctl.ok("kill", "web")


def test_a_monitor_command_gives_the_reply_that_qemu_gave(web: Kvmctl) -> None:
    assert json.loads(web.ok("qmp", "web", "query-name")) == {"name": "web"}
    done = web("qmp", "web", "no-such-command")
    assert done.returncode == 11
    assert "no-such-command" in done.stderr


def test_arguments_that_are_no_json_object_are_a_usage_error(web: Kvmctl) -> None:
    for text in ("{", "[1]"):
        assert web("qmp", "web", "query-name", text).returncode == 2


def test_a_screenshot_of_a_machine_without_a_display_is_an_error(web: Kvmctl) -> None:
    done = web("screenshot", "web", "web.png")
    assert done.returncode == 11
    assert "hint: Give it a display adapter in the spec: video" in done.stderr
    assert not (web.directory / "web.png").exists()


def test_exec_says_when_it_was_kvmctl_that_failed(web: Kvmctl) -> None:
    assert web("exec", "web", "--", "true").returncode == 125  # this guest's agent runs no commands
    assert web("exec", "nobody", "--", "true").returncode == 125


def test_exec_in_a_machine_that_is_paused_does_not_wait(web: Kvmctl) -> None:
    web.ok("pause", "web")
    done = web("exec", "web", "--", "true")
    assert done.returncode == 125
    assert done.stderr == (
        "error: nothing can be asked of the guest of 'web': it is paused\nhint: Let it go on: kvmctl resume web\n"
    )


def test_memory_can_be_asked_back_with_a_balloon(kvmctl: Kvmctl) -> None:
    (kvmctl.directory / "big.toml").write_text("memory = '64MiB'\nfirmware = 'qboot.rom'\n")
    kvmctl.ok("start", "./big.toml")
    record = json.loads(kvmctl.ok("balloon", "big", "32MiB", "--timeout", "0", "--json"))
    assert (record["actual"], record["wanted"]) == (64 << 20, 32 << 20)  # no driver in this guest: nothing was given
    done = kvmctl("balloon", "big", "32MiB", "--timeout", "0.3")
    assert done.returncode == 10
    assert "gave up after 0.3 s: wait for the guest to come to 32MiB" in done.stderr
    assert "kvmctl balloon big" in done.stderr
    assert kvmctl("balloon", "big", "32MB").returncode == 2
    done = kvmctl("balloon", "big", "65MiB")
    assert done.returncode == 1
    assert "machine 'big' has 64 MiB" in done.stderr
    kvmctl.ok("kill", "big")


def test_a_machine_without_a_balloon_says_how_to_give_it_one(web: Kvmctl) -> None:
    for words in (["balloon", "web"], ["balloon", "web", "8MiB"]):
        done = web(*words)
        assert done.returncode == 11
        assert "hint: Give it one in the spec: balloon = true" in done.stderr


def test_python_tracebacks_are_for_those_who_ask(kvmctl: Kvmctl) -> None:
    assert "Traceback" not in kvmctl("stop", "nobody").stderr
    assert "Traceback" in kvmctl("stop", "nobody", KVMCTL_DEBUG="1").stderr


def test_machine_names_are_completed(web: Kvmctl) -> None:
    asked = {"COMP_WORDS": "kvmctl stop w", "COMP_CWORD": "2", "_KVMCTL_COMPLETE": "complete_bash"}
    assert web.ok(**asked).split() == ["web"]


def test_what_is_asked_often_imports_little(web: Kvmctl) -> None:
    listing = web.modules("list")
    assert "kvmctl.runtime.listing" in listing
    assert not listing & {"asyncio", "pydantic", "pydantic_core", "psutil", "pyroute2", "qemu.qmp", "rich"}
    forced = web.modules("stop", "--force", "web")
    assert not forced & {"asyncio", "pydantic", "pydantic_core", "psutil", "pyroute2", "qemu.qmp", "rich"}


def test_an_unchanged_machine_is_started_with_next_to_nothing(kvmctl: Kvmctl) -> None:
    kvmctl.ok("start", "tiny")
    kvmctl.ok("kill", "tiny")
    again = kvmctl.modules("start", "tiny")
    kvmctl.ok("kill", "tiny")
    assert "kvmctl.runtime.detached" in again
    assert not again & {"asyncio", "pydantic", "pydantic_core", "psutil", "qemu.qmp", "typer"}
    assert not again & {"dataclasses", "datetime", "hashlib", "inspect", "pathlib"}


def test_stop_and_console_know_nothing_of_specs(web: Kvmctl) -> None:
    web.ok("wait", "web", "--for", "console:^READY")
    assert "pydantic" not in web.modules("stop", "web")
    web.ok("start", "tiny", "--name", "web")
    attached = web.modules("console", "web", stdin="q")
    assert "kvmctl.runtime.console" in attached
    assert "pydantic" not in attached
