"""What became of a machine: all that it left behind, to one verdict with its evidence. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvmctl.runtime.events import UNSEEN, Exit, ExitReason, State
from kvmctl.runtime.symptoms import last_lines, plain, read_symptom
from kvmctl.verdict import Verdict, VerdictKind

_STRONG: Final = frozenset({VerdictKind.KERNEL_PANIC, VerdictKind.NO_ROOT, VerdictKind.INIT_FAILED})
"""What a guest may end itself after: the reason is in its last words, not in its power-off."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a machine left behind. `console` and `qemu_log` are the ends of those logs, as they are."""

    name: str
    state: State
    exit: Exit | None = None
    """How it ended; None while it lives."""
    console: str = ""
    has_console: bool = True
    """A log is kept of its first console."""
    qemu_log: str = ""
    disk_error: str = ""
    """The last event that told of a disk's error."""
    halted: int = 0
    """QEMU's pid, where that process was stopped by a signal; 0 where it was not."""
    oom: str = ""
    """What the host's kernel said of killing QEMU for want of memory."""
    has_agent: bool = False
    """It has a channel for the guest's agent that tells when it is opened."""
    agent_open: bool = False
    has_kernel: bool = False
    """It is started with a kernel and not by its firmware."""
    has_display: bool = False


def judge(evidence: Evidence) -> Verdict:
    """The verdict on what `evidence` shows."""
    symptom = read_symptom(plain(evidence.console))
    if evidence.exit is not None:
        return _judge_end(evidence, evidence.exit, symptom)
    return _judge_halt(evidence, symptom) or symptom or _judge_running(evidence)


def _judge_end(evidence: Evidence, end: Exit, symptom: Verdict | None) -> Verdict:
    if symptom is not None and symptom.kind in _STRONG and end.reason not in {ExitReason.KILLED, ExitReason.CRASHED}:
        return symptom
    lines = last_lines(plain(evidence.console), count=3)
    match end.reason:
        case ExitReason.KILLED:
            return _killed(evidence, end)
        case ExitReason.CRASHED:
            how = f" ({end.detail})" if end.detail else ""
            return Verdict(VerdictKind.QEMU_CRASHED, f"QEMU died of a fault of its own{how}", _words(evidence))
        case ExitReason.GUEST_PANIC:
            return symptom or Verdict(VerdictKind.KERNEL_PANIC, "the guest said that it has crashed", lines)
        case ExitReason.GUEST_SHUTDOWN:
            return Verdict(VerdictKind.POWERED_OFF, "the guest powered off", lines)
        case ExitReason.GUEST_RESET:
            return Verdict(VerdictKind.REBOOTED, "the guest rebooted, and the machine was to end then", lines)
        case ExitReason.HOST_QUIT:
            return Verdict(VerdictKind.QUIT, f"QEMU was told to end ({end.detail or 'by a signal'})")
        case ExitReason.EXITED:
            return Verdict(VerdictKind.QEMU_EXITED, f"QEMU ended by itself: {end.detail}", _words(evidence) or lines)


def _killed(evidence: Evidence, end: Exit) -> Verdict:
    if evidence.oom:
        return Verdict(
            VerdictKind.OUT_OF_MEMORY,
            "the host ran out of memory, and its kernel killed QEMU",
            (plain(evidence.oom),),
            "Run fewer machines at once, or give them less memory.",
        )
    if end.detail.startswith("kvmctl "):
        return Verdict(VerdictKind.QEMU_KILLED, f"QEMU was killed by `{end.detail}`")
    return Verdict(
        VerdictKind.QEMU_KILLED,
        "QEMU was killed or crashed, and it was not kvmctl"
        if end.detail == UNSEEN
        else "QEMU was killed, and it was not kvmctl",
        _words(evidence) or ("its journal ends without a word of an end",),
        "The host's kernel log has what killed it, or crashed it: dmesg | grep -iE 'killed process|segfault'",
    )


def _judge_halt(evidence: Evidence, symptom: Verdict | None) -> Verdict | None:
    """A machine that lives, and whose guest can't go on by itself."""
    if evidence.halted:
        return Verdict(
            VerdictKind.QEMU_HALTED,
            "QEMU was stopped by a signal, and answers nobody",
            (f"process {evidence.halted} is in the state T: SIGCONT would wake it",),
            f"Let it go on: kill -CONT {evidence.halted}",
        )
    match evidence.state:
        case State.IO_ERROR:
            return Verdict(
                VerdictKind.DISK_ERROR,
                "the machine was stopped because a disk failed or is full",
                (evidence.disk_error,) if evidence.disk_error else (),
                f"Make room, or mend it, and let it go on: kvmctl resume {evidence.name}",
            )
        case State.PANICKED:
            lines = last_lines(plain(evidence.console))
            return symptom or Verdict(VerdictKind.KERNEL_PANIC, "the guest said that it has crashed", lines)
        case State.PAUSED:
            hint = f"Let it go on: kvmctl resume {evidence.name}"
            return Verdict(VerdictKind.PAUSED, "the machine is paused", hint=hint)
        case State.SUSPENDED:
            return Verdict(VerdictKind.PAUSED, "the guest sleeps")
        case State.SHUTDOWN:
            lines = last_lines(plain(evidence.console), count=3)
            return Verdict(VerdictKind.POWERED_OFF, "the guest powered off, and QEMU was told to stay", lines)
        case _:
            return None


def _judge_running(evidence: Evidence) -> Verdict:
    """A machine that runs, and whose console tells of nothing that is known to be wrong."""
    lines = last_lines(plain(evidence.console))
    if evidence.has_agent and evidence.agent_open:
        return Verdict(VerdictKind.HEALTHY, "the guest's agent has its channel open; nothing tells of a fault", lines)
    if evidence.has_console and not lines:
        return _silent(evidence)
    if evidence.has_agent:
        return Verdict(
            VerdictKind.AGENT_ABSENT,
            "the guest runs, and its agent has not opened its channel",
            lines,
            "Is qemu-guest-agent installed and enabled in the guest? Or it is still starting.",
        )
    return Verdict(VerdictKind.UNKNOWN, "nothing that is known to go wrong; the end of the console", lines)


def _silent(evidence: Evidence) -> Verdict:
    if evidence.has_display:
        hint = f"It may write to its screen instead: kvmctl screenshot {evidence.name}"
    elif evidence.has_kernel:
        hint = "Linux speaks there if its command line says console=ttyS0."
    else:
        hint = "It may use no serial port; with video = 'std' it can be looked at: kvmctl screenshot."
    return Verdict(VerdictKind.SILENT, "the machine runs, and its console has not said a word", hint=hint)


def _words(evidence: Evidence) -> tuple[str, ...]:
    return last_lines(plain(evidence.qemu_log))
