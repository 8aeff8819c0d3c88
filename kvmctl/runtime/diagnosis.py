"""Gathering what a machine left behind, for `kvmctl.runtime.judge` to say what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from kvmctl import files
from kvmctl.errors import StateError
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import oom, store
from kvmctl.runtime.events import Event, Exit, ExitReason, derive
from kvmctl.runtime.judge import Evidence, judge
from kvmctl.runtime.peers import is_stopped
from kvmctl.verdict import Verdict

_CONSOLE_TAIL: Final = 64 << 10
_QEMU_TAIL: Final = 4 << 10


def diagnose(plan: Plan, paths: MachinePaths, events: Sequence[Event], *, end: Exit | None) -> Verdict:
    """What became of the run of `plan` whose events are `events` and which ended by `end`, or lives. Raises
    StateError."""
    history = derive(events)
    has_console = bool(plan.consoles and plan.consoles[0].log)
    evidence = Evidence(
        name=plan.name,
        state=history.state,
        exit=end,
        console=files.read_tail(paths.console_log, limit=_CONSOLE_TAIL) if has_console else "",
        has_console=has_console,
        qemu_log=files.read_tail(paths.qemu_log, limit=_QEMU_TAIL),
        disk_error=_disk_error(events),
        halted=_halted(paths) if end is None else 0,
        oom=_oom(paths, end, since=history.started),
        has_agent=plan.guest.agent == "virtio",
        agent_open=history.agent_open,
        has_kernel=any(option.flag == "kernel" for option in plan.options),
        has_display=plan.guest.display,
    )
    return judge(evidence)


def _disk_error(events: Sequence[Event]) -> str:
    """The last thing that a disk failed at."""
    for event in reversed(events):
        if event.name == "BLOCK_IO_ERROR":
            data = event.data
            device = str(data.get("qom-path") or data.get("device") or data.get("node-name", ""))
            device = device.removeprefix("/machine/peripheral/").removesuffix("/virtio-backend")
            return f"{device}: {data.get('operation', 'a request')} failed: {data.get('reason', 'no reason given')}"
    return ""


def _halted(paths: MachinePaths) -> int:
    """QEMU's pid, where it was stopped by a signal; 0 where it can't be seen from here, too."""
    with suppress(StateError):
        if process := store.find_process(paths):
            with process:
                return process.pid if is_stopped(process.pid) else 0
    return 0


def _oom(paths: MachinePaths, end: Exit | None, *, since: float | None) -> str:
    """What the host's kernel says, where QEMU ended by SIGKILL and kvmctl did not send it."""
    if end is None or end.reason is not ExitReason.KILLED or end.detail.startswith("kvmctl "):
        return ""
    pid = files.read_tail(paths.pid, limit=32).strip()
    return oom.read_oom_kill(int(pid), since=since or 0.0) if pid.isdecimal() else ""
