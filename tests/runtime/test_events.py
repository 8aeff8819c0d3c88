"""What a journal's events amount to."""

from __future__ import annotations

import json

import pytest

from kvmctl.runtime.events import Event, ExitReason, State, derive, parse_event, parse_lines


def run(*names: str | Event) -> list[Event]:
    return [name if isinstance(name, Event) else Event(name, float(index)) for index, name in enumerate(names, 1)]


def shutdown(reason: str, *, guest: bool) -> Event:
    return Event("SHUTDOWN", 9.0, {"guest": guest, "reason": reason})


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], State.STARTING),
        (["RESUME"], State.RUNNING),
        (["RESUME", "STOP"], State.PAUSED),
        (["RESUME", "STOP", "RESUME"], State.RUNNING),
        (["RESUME", "SUSPEND"], State.SUSPENDED),
        (["RESUME", "SUSPEND", "WAKEUP"], State.RUNNING),
        (["RESUME", Event("BLOCK_IO_ERROR", 2.0, {"action": "stop"}), "STOP"], State.IO_ERROR),
        (["RESUME", Event("BLOCK_IO_ERROR", 2.0, {"action": "report"})], State.RUNNING),
        (["RESUME", Event("GUEST_PANICKED", 2.0, {"action": "pause"}), "STOP"], State.PANICKED),
        (["RESUME", Event("GUEST_PANICKED", 2.0, {"action": "pause"}), "STOP", "RESUME"], State.RUNNING),
        (["RESUME", "POWERDOWN"], State.RUNNING),
    ],
)
def test_state_follows_from_the_events(events: list[str | Event], state: State) -> None:
    assert derive(run(*events)).state is state


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([shutdown("guest-shutdown", guest=True)], ExitReason.GUEST_SHUTDOWN),
        ([shutdown("guest-reset", guest=True)], ExitReason.GUEST_RESET),
        ([shutdown("host-qmp-quit", guest=False)], ExitReason.HOST_QUIT),
        ([shutdown("host-signal", guest=False)], ExitReason.HOST_QUIT),
        ([shutdown("guest-panic", guest=True)], ExitReason.GUEST_PANIC),
        (
            [Event("GUEST_PANICKED", 2.0, {"action": "poweroff"}), shutdown("guest-shutdown", guest=True)],
            ExitReason.GUEST_PANIC,
        ),
        ([shutdown("a-reason-of-tomorrow", guest=True)], ExitReason.GUEST_SHUTDOWN),
        ([], ExitReason.KILLED),
        ([Event("KVMCTL_KILL", 3.0, {"by": "kvmctl kill"})], ExitReason.KILLED),
        ([Event("KVMCTL_EXIT", 3.0, {"status": -9})], ExitReason.KILLED),
        ([Event("KVMCTL_EXIT", 3.0, {"status": -11})], ExitReason.CRASHED),
        ([Event("KVMCTL_EXIT", 3.0, {"status": 33})], ExitReason.EXITED),
        (
            [shutdown("guest-shutdown", guest=True), Event("KVMCTL_EXIT", 10.0, {"status": 33})],
            ExitReason.EXITED,
        ),
    ],
)
def test_exit_reason_follows_from_the_events(events: list[Event], reason: ExitReason) -> None:
    assert derive(run("RESUME", *events)).exit.reason is reason


def test_exit_status_does_not_hide_why_the_machine_ended() -> None:
    end = derive(run("RESUME", shutdown("guest-shutdown", guest=True), Event("KVMCTL_EXIT", 10.0, {"status": 0}))).exit

    assert (end.reason, end.status, end.time) == (ExitReason.GUEST_SHUTDOWN, 0, 9.0)


def test_a_shutdown_that_was_followed_by_another_run_is_not_how_the_machine_ended() -> None:
    told = derive(run("RESUME", shutdown("guest-shutdown", guest=True), "STOP", "RESET", "RESUME"))

    assert (told.state, told.exit.reason, told.exit.time) == (State.RUNNING, ExitReason.KILLED, None)


def test_agent_is_open_until_its_port_closes_or_the_guest_is_reset() -> None:
    opened = Event("VSERPORT_CHANGE", 2.0, {"id": "agent", "open": True})
    closed = Event("VSERPORT_CHANGE", 3.0, {"id": "agent", "open": False})
    other = Event("VSERPORT_CHANGE", 2.0, {"id": "clipboard", "open": True})

    assert derive(run("RESUME", opened)).agent_open
    assert not derive(run("RESUME", opened, closed)).agent_open
    assert not derive(run("RESUME", opened, "RESET")).agent_open
    assert not derive(run("RESUME", other)).agent_open


def test_time_is_seconds_since_the_epoch() -> None:
    event = parse_event({"event": "RESUME", "timestamp": {"seconds": 5, "microseconds": 250000}, "data": {}})

    assert event == Event("RESUME", 5.25, {})


def test_greetings_replies_and_half_written_lines_are_no_events() -> None:
    whole = json.dumps({"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 0}})
    lines = ['{"QMP": {"version": {}}}', '{"return": {}}', whole, whole[:20], "garbage", ""]

    assert [event.name for event in parse_lines(lines)] == ["RESUME"]


@pytest.mark.parametrize(
    "line",
    [
        '["event"]',
        '"event"',
        '{"event": 7}',
        '{"event": "RESUME"}',
        '{"event": "RESUME", "timestamp": 5}',
        '{"event": "RESUME", "timestamp": {"seconds": "5", "microseconds": null}}',
        '{"event": ' + "[" * 100_000,
        '{"event": "' + "x" * 1_000_000,
        "\0" * 100 + '"event"',
    ],
    ids=lambda line: line[:40],
)
def test_garbage_in_a_journal_is_no_event(line: str) -> None:
    assert parse_lines([line]) == []


def test_an_events_data_may_be_missing_or_odd() -> None:
    stamp = {"seconds": 1, "microseconds": 0}

    assert parse_event({"event": "RESET", "timestamp": stamp}) == Event("RESET", 1.0, {})
    assert parse_event({"event": "RESET", "timestamp": stamp, "data": [1]}) == Event("RESET", 1.0, {})
