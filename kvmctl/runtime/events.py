"""What QEMU's events mean: raw QMP messages to frozen values. Pure.

The names are those of QEMU's qapi/run-state.json; the reasons of a SHUTDOWN are its ``ShutdownCause``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from kvmctl.plan.paths import RESIDENT


class Event(NamedTuple):
    """One event: `time` in seconds since the epoch, by the host's clock."""

    name: str
    time: float
    data: Mapping[str, Any] = {}


class State(StrEnum):
    """What a machine is doing."""

    STARTING = "starting"
    """Its launcher has not let it go yet."""
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    """The guest sleeps (ACPI S3)."""
    PANICKED = "panicked"
    """The guest crashed and was stopped there."""
    IO_ERROR = "io-error"
    """Stopped because a disk failed or is full."""
    SHUTDOWN = "shutdown"
    """The guest powered off and QEMU was told to stay."""
    STOPPED = "stopped"
    BROKEN = "broken"
    """Its files can't be read."""


class ExitReason(StrEnum):
    """Why a machine ended."""

    GUEST_SHUTDOWN = "guest-shutdown"
    GUEST_RESET = "guest-reset"
    """The guest rebooted and the machine was told to end then."""
    GUEST_PANIC = "guest-panic"
    HOST_QUIT = "host-quit"
    """QEMU was told to quit: by its monitor, by a signal, by its window."""
    EXITED = "exited"
    """QEMU ended by itself with an exit status, without a shutdown: the guest asked for it, or it could not go on."""
    KILLED = "killed"
    """By SIGKILL, kvmctl's or somebody's, or by a fault that nobody was there to see: there was no last word."""
    CRASHED = "crashed"
    """QEMU died of a fault of its own."""


UNSEEN: Final = "QEMU ended without a word: killed or crashed, or the host went down"
"""The detail of an end that nobody saw."""


class Exit(NamedTuple):
    """How a machine ended. `status` is QEMU's exit status, negative for a signal, where its parent saw it."""

    reason: ExitReason
    time: float | None = None
    status: int | None = None
    detail: str = ""

    @property
    def words(self) -> str:
        """Why it ended, for people: where nobody saw it, a machine that was killed may have crashed as well."""
        return "killed or crashed" if self.detail == UNSEEN else str(self.reason)


class History(NamedTuple):
    """What a journal tells: the state of a machine that lives, the end of one that does not."""

    state: State
    started: float | None
    """When it was let go; None before that."""
    exit: Exit
    """How it ended, if it did: what was known at the journal's last line."""
    agent_open: bool
    """The guest has the agent's channel open, as far as the channel can tell."""
    resident_open: bool = False
    """A program waits in the guest at a port of its own, or runs a command."""


def parse_event(message: object) -> Event | None:
    """The event in a QMP message, or None where it is a greeting or a reply."""
    match message:
        case {"event": str(name), "timestamp": {"seconds": int(seconds), "microseconds": int(fraction)}, **rest}:
            data = rest.get("data")
            return Event(name, seconds + fraction / 1e6, data if isinstance(data, Mapping) else {})
        case _:
            return None


def parse_lines(lines: Iterable[str]) -> list[Event]:
    """The events in a journal's lines; what is no event (a line being written, garbage) is passed over."""
    events = []
    for line in lines:
        if '"event"' not in line:
            continue
        try:
            event = parse_event(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if event is not None:
            events.append(event)
    return events


_REASONS = {
    "guest-shutdown": ExitReason.GUEST_SHUTDOWN,
    "guest-reset": ExitReason.GUEST_RESET,
    "subsystem-reset": ExitReason.GUEST_RESET,
    "guest-panic": ExitReason.GUEST_PANIC,
    "host-error": ExitReason.CRASHED,
    "host-qmp-quit": ExitReason.HOST_QUIT,
    "host-qmp-system-reset": ExitReason.HOST_QUIT,
    "host-signal": ExitReason.HOST_QUIT,
    "host-ui": ExitReason.HOST_QUIT,
}

_SILENT = Exit(ExitReason.KILLED, detail=UNSEEN)

KILL = "KVMCTL_KILL"
"""Written to the journal by kvmctl before it sends SIGKILL, since QEMU won't be able to."""
EXIT = "KVMCTL_EXIT"
"""Written by a launcher that was QEMU's parent: ``{"status": N}``."""


def derive(events: Iterable[Event]) -> History:
    """What the events of one run amount to."""
    state, started = State.STARTING, None
    ports: set[object] = set()  # that the guest has open
    end = _SILENT
    halt = State.PAUSED  # what the next STOP will have been for
    panicked = False
    for event in events:
        match event.name:
            case "RESUME":
                state, halt, panicked, end = State.RUNNING, State.PAUSED, False, _SILENT
                started = started or event.time
            case "STOP":
                state = halt
            case "SUSPEND":
                state = State.SUSPENDED
            case "WAKEUP":
                state = State.RUNNING
            case "BLOCK_IO_ERROR" if event.data.get("action") == "stop":
                halt = State.IO_ERROR
            case "GUEST_PANICKED":
                halt, panicked = State.PANICKED, True
            case "VSERPORT_CHANGE" if event.data.get("open"):
                ports.add(event.data.get("id"))
            case "VSERPORT_CHANGE":
                ports.discard(event.data.get("id"))
            case "RESET":
                ports.clear()
            case "SHUTDOWN":
                state = halt = State.SHUTDOWN
                end = _shutdown(event, panicked=panicked)
            case "KVMCTL_KILL":
                end = Exit(ExitReason.KILLED, event.time, detail=str(event.data.get("by", "")))
            case "KVMCTL_EXIT":
                end = _exited(end, event)
    return History(state, started, end, agent_open="agent" in ports, resident_open=RESIDENT in ports)


def ends_resident(event: Event) -> bool:
    """Whether the guest has closed the port of the program that waits in it, or was restarted."""
    is_closed = event.name == "VSERPORT_CHANGE" and event.data.get("id") == RESIDENT and not event.data.get("open")
    return is_closed or event.name == "RESET"


def _shutdown(event: Event, *, panicked: bool) -> Exit:
    word = str(event.data.get("reason", ""))
    reason = _REASONS.get(word, ExitReason.GUEST_SHUTDOWN if event.data.get("guest") else ExitReason.HOST_QUIT)
    if panicked and reason is ExitReason.GUEST_SHUTDOWN:
        reason = ExitReason.GUEST_PANIC
    return Exit(reason, event.time, detail=word)


def _exited(known: Exit, event: Event) -> Exit:
    status = event.data.get("status")
    if not isinstance(status, int):
        return known
    if known.reason is ExitReason.GUEST_SHUTDOWN and status > 0:
        # isa-debug-exit: QEMU 7.2 exits without a word, 10.0 says SHUTDOWN as for a power-off, and the status tells.
        return Exit(ExitReason.EXITED, known.time, status, f"status {status}")
    if known.time is not None:
        return Exit(known.reason, known.time, status, known.detail)
    if status == -9:
        return Exit(ExitReason.KILLED, event.time, status, "SIGKILL")
    if status < 0:
        return Exit(ExitReason.CRASHED, event.time, status, f"signal {-status}")
    return Exit(ExitReason.EXITED, event.time, status, f"status {status}")
