"""Logs, events and waiting: what a machine said and did, so far and to come."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from .conftest import PATIENCE, Kvmctl

pytestmark = pytest.mark.qemu


@pytest.fixture
def web(kvmctl: Kvmctl) -> Iterator[Kvmctl]:
    """A command line whose machine ``web`` runs and has booted, and is ended at last."""
    kvmctl.ok("start", "tiny", "--name", "web")
    kvmctl.ok("wait", "web", "--for", "console:^READY")
    yield kvmctl
    kvmctl("kill", "web")


def names(lines: str) -> list[str]:
    return [json.loads(line)["event"] for line in lines.splitlines()]


def test_logs_hold_the_console_from_its_first_byte_and_outlive_the_machine(web: Kvmctl) -> None:
    before = web.ok("logs", "web")
    assert "KVMCTL-TINY" in before
    web.ok("kill", "web")
    assert web.ok("logs", "web") == before


def test_following_a_log_ends_with_the_machine(web: Kvmctl) -> None:
    with web.popen("logs", "--follow", "web") as follower:
        web.ok("stop", "web")
        shown, _ = follower.communicate(timeout=PATIENCE)
    assert follower.returncode == 0
    assert shown.endswith("OFF\n")


def test_qemus_own_log_is_there_too(kvmctl: Kvmctl) -> None:
    (kvmctl.directory / "noisy.toml").write_text(
        "memory = '16MiB'\nfirmware = 'qboot.rom'\n[boot]\nkernel = 'builtin:tiny'\n[[networks]]\ntype = 'user'\n"
    )
    kvmctl.ok("start", "./noisy.toml")
    assert kvmctl("logs", "--qemu", "noisy").returncode == 0
    kvmctl.ok("kill", "noisy")


def test_a_machine_that_never_ran_has_no_logs(kvmctl: Kvmctl) -> None:
    kvmctl.ok("create", "web")
    for verb in ("logs", "events"):
        done = kvmctl(verb, "web")
        assert done.returncode == 4
        assert done.stderr == "error: machine 'web' has not run yet\nhint: Start it: kvmctl start web\n"


def test_events_are_told_to_people_and_to_programs(web: Kvmctl) -> None:
    web.ok("reset", "web")
    assert "RESET  guest=false  reason=host-qmp-system-reset" in web.ok("events", "web")
    first, *_, last = (json.loads(line) for line in web.ok("events", "web", "--json").splitlines())
    assert (first["machine"], first["event"]) == ("web", "RESUME")
    assert last["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert last["schema"] == 1
    assert last["time"].endswith("Z")


def test_following_the_events_of_a_machine_ends_with_it(web: Kvmctl) -> None:
    with web.popen("events", "--follow", "--json", "web") as follower:
        web.ok("stop", "web")
        shown, _ = follower.communicate(timeout=PATIENCE)
    assert names(shown)[0] == "RESUME"
    assert names(shown)[-1] == "SHUTDOWN"


def test_following_all_events_sees_machines_that_come_and_come_back(web: Kvmctl) -> None:
    with web.popen("events", "--follow", "--json") as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["machine"] == "web"
        for _ in range(2):
            web.ok("start", "tiny", "--name", "later")
            web.ok("stop", "later", "--force")
        web.ok("stop", "web", "--force")
        seen = []
        while (seen[-1:] or [("", "")])[0] != ("web", "SHUTDOWN"):
            record = json.loads(follower.stdout.readline())
            seen.append((record["machine"], record["event"]))
        follower.send_signal(signal.SIGINT)
        assert follower.wait(timeout=PATIENCE) == 130
    assert [event for machine, event in seen if machine == "later" and event != "POWERDOWN"] == [
        "RESUME",
        "SHUTDOWN",
        "RESUME",
        "SHUTDOWN",
    ]


def test_all_events_are_told_by_time(web: Kvmctl) -> None:
    web.ok("start", "tiny", "--name", "another")
    web.ok("kill", "another")
    records = [json.loads(line) for line in web.ok("events", "--json").splitlines()]
    assert {record["machine"] for record in records} == {"web", "another"}
    assert [record["time"] for record in records] == sorted(record["time"] for record in records)


def test_waiting_for_the_console_gives_the_line(web: Kvmctl) -> None:
    assert web.ok("wait", "web", "--for", "console:memk=[0-9]+").startswith("KVMCTL-TINY boot=K")


def test_waiting_for_the_agent_ends_when_it_answers(web: Kvmctl) -> None:
    web.ok("wait", "web", "--for", "agent", "--timeout", str(PATIENCE))


def test_waiting_for_an_event_gives_its_name(web: Kvmctl) -> None:
    with web.popen("wait", "web", "--for", "event:RESET") as waiter:
        # Only events from now on count, so it is pressed until one was seen.
        while waiter.poll() is None:
            web.ok("reset", "web")
        assert waiter.communicate(timeout=PATIENCE)[0] == "RESET\n"


def test_waiting_for_a_machine_that_nobody_has_started_yet(kvmctl: Kvmctl) -> None:
    with kvmctl.popen("wait", "web", "--for", "running") as waiter:
        kvmctl.ok("start", "tiny", "--name", "web")
        assert waiter.communicate(timeout=PATIENCE)[0] == "running\n"
    kvmctl.ok("kill", "web")


def test_waiting_for_the_end_tells_how_it_came(web: Kvmctl) -> None:
    with web.popen("wait", "web") as waiter:
        web.ok("kill", "web")
        assert waiter.communicate(timeout=PATIENCE)[0] == "killed\n"
    assert web.ok("wait", "web") == "killed\n"


def test_waiting_is_given_up_when_the_machine_ends_without_it(web: Kvmctl) -> None:
    with web.popen("wait", "web", "--for", "console:never") as waiter:
        web.ok("kill", "web")
        _, talk = waiter.communicate(timeout=PATIENCE)
    assert waiter.returncode == 5
    assert "machine 'web'" in talk  # which ended before it, or before we looked


def test_waiting_is_given_up_when_its_time_is_over(web: Kvmctl) -> None:
    done = web("wait", "web", "--for", "console:never", "--timeout", "0.2")
    assert done.returncode == 10
    summary, last, verdict, *evidence = done.stderr.splitlines()
    assert summary == "error: gave up after 0.2 s: wait for console:never"
    assert last == "the console's last line: READY"
    assert verdict.startswith("verdict: unknown: ")
    assert evidence[-1] == "  | READY"


@pytest.mark.parametrize("condition", ["", "soon", "console", "console:", "event:", "running:now", "stopped:"])
def test_what_can_not_be_waited_for_is_a_usage_error(kvmctl: Kvmctl, condition: str) -> None:
    done = kvmctl("wait", "web", "--for", condition)
    assert done.returncode == 2
    assert "console:REGEX" in done.stderr


def test_an_event_that_can_never_come_is_not_waited_for(kvmctl: Kvmctl) -> None:
    done = kvmctl("wait", "web", "--for", "event:shutdown")
    assert done.returncode == 2
    assert "event:SHUTDOWN" in done.stderr


@pytest.mark.parametrize("serials", ["[{ log = false }]", "[]"])
def test_what_keeps_no_log_is_not_waited_for_in_vain(kvmctl: Kvmctl, serials: str) -> None:
    spec = f"memory = '16MiB'\nfirmware = 'qboot.rom'\nserials = {serials}\n"
    (kvmctl.directory / "web.toml").write_text(spec)
    kvmctl.ok("start", "./web.toml")
    for words in (["wait", "web", "--for", "console:READY"], ["logs", "web"], ["logs", "--follow", "web"]):
        done = kvmctl(*words)
        assert done.returncode == 4
        assert "no log is kept of the console of 'web'" in done.stderr
    assert kvmctl.ok("logs", "--qemu", "web") == ""
    kvmctl.ok("kill", "web")


def test_a_pattern_that_is_none_is_told(web: Kvmctl) -> None:
    done = web("wait", "web", "--for", "console:(")
    assert done.returncode == 1
    assert "'(' is not a regular expression" in done.stderr


def test_several_conditions_are_waited_for_at_once_and_told_in_their_order(web: Kvmctl) -> None:
    assert web.ok("wait", "web", "--for", "console:^READY", "--for", "agent", "--for", "running").splitlines() == [
        "READY",
        "the guest agent answers",
        "running",
    ]
    done = web("wait", "web", "--for", "agent", "--for", "console:(")
    assert done.returncode == 1
    assert "'(' is not a regular expression" in done.stderr


@pytest.mark.parametrize(
    "condition",
    ["sshd", "ssh:22", "port", "port:0", "port:65536", "port:http", "unit:", "unit:a b", "unit:../x", "exec:"],
)
def test_what_can_not_be_waited_for_is_a_wrong_command_line(kvmctl: Kvmctl, condition: str) -> None:
    done = kvmctl("wait", "web", "--for", condition)
    assert done.returncode == 2
    assert "Invalid value for --for: '" in done.stderr


def test_a_guest_without_a_network_or_a_way_to_run_commands_says_so(web: Kvmctl) -> None:
    done = web("wait", "web", "--for", "ssh")
    assert done.returncode == 15
    assert "machine 'web' has no network by which this host could get to it" in done.stderr
    done = web("ssh", "web", "true")
    assert done.returncode == 125
    assert "kvmctl console web" in done.stderr
    assert web("ip", "web").returncode == 4
    assert json.loads(web.ok("ip", "web", "--json"))["addresses"] == []
    assert web("wait", "web", "--for", "port:80").returncode == 12  # its agent runs no commands


def test_a_guest_that_panics_is_not_waited_for_any_longer(kvmctl: Kvmctl) -> None:
    (kvmctl.directory / "web.toml").write_text(
        "memory = '16MiB'\nfirmware = 'qboot.rom'\non_crash = 'pause'\n[boot]\nkernel = 'builtin:tiny'\n"
    )
    kvmctl.ok("start", "./web.toml")
    with kvmctl.popen("wait", "web", "--for", "console:never") as waiter:
        kvmctl.ok("wait", "web", "--for", "console:^READY")
        with kvmctl.popen("console", "web") as console:
            assert console.stdin is not None
            console.stdin.write("p")
            console.stdin.flush()
            _, talk = waiter.communicate(timeout=PATIENCE)
            console.terminate()
    assert waiter.returncode == 16
    assert "the guest of 'web' panicked before console:never" in talk
    kvmctl.ok("kill", "web")


def test_a_start_that_waits_for_nothing_pays_for_no_waiting(kvmctl: Kvmctl) -> None:
    loaded = kvmctl.modules("start", "tiny", "--name", "web")
    assert not {"kvmctl.runtime.waiting", "kvmctl.guest.sshrun", "kvmctl.runtime.inside"} & loaded
    kvmctl.ok("kill", "web")
