"""QEMU's last words, understood: what it printed when it did not come up, to the error that says what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import Final

from kvmctl.errors import (
    HostError,
    ImageBusy,
    ImageError,
    KvmctlError,
    KvmUnavailable,
    LaunchFailed,
    PortBusy,
)
from kvmctl.runtime.symptoms import last_lines, plain
from kvmctl.verdict import Verdict, VerdictKind

_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z\s*")


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    make: Callable[..., KvmctlError]
    kind: VerdictKind
    summary: str
    hint: str


_RULES = (
    _Rule(
        re.compile(r'Failed to get (?:shared )?"\w+" lock'),
        ImageBusy,
        VerdictKind.IMAGE_LOCKED,
        "a disk image is in use by another process",
        "Stop the machine that has it; `kvmctl list` shows those of yours.",
    ),
    _Rule(
        re.compile(r"Could not access KVM kernel module: Permission denied"),
        KvmUnavailable,
        VerdictKind.NO_KVM,
        "no permission to use /dev/kvm",
        "See: kvmctl doctor",
    ),
    _Rule(
        re.compile(r"Could not access KVM kernel module|failed to initialize kvm", re.IGNORECASE),
        KvmUnavailable,
        VerdictKind.NO_KVM,
        "QEMU can't use KVM",
        'See: kvmctl doctor; or set accel = "tcg"',
    ),
    _Rule(
        re.compile(r"Address already in use|Could not set up host forwarding rule", re.IGNORECASE),
        PortBusy,
        VerdictKind.PORT_TAKEN,
        "a port that QEMU was to listen on is taken",
        "Choose another port, or 0 to let one be found.",
    ),
    _Rule(
        re.compile(r"cannot set up guest memory|Cannot allocate memory", re.IGNORECASE),
        HostError,
        VerdictKind.NO_HOST_MEMORY,
        "the host has not enough memory for the machine",
        "Give it less memory, or free some: see `free -h` and, for hugepages, /proc/meminfo.",
    ),
    _Rule(
        re.compile(r"Image is not in (\S+) format|Could not read qcow2 header", re.IGNORECASE),
        ImageError,
        VerdictKind.BAD_IMAGE,
        "a disk image is not in the format given",
        "Look at it with `qemu-img info` and correct the disk's format in the spec.",
    ),
    _Rule(
        re.compile(r"Could not open '.*': (Permission denied|No such file)"),
        ImageError,
        VerdictKind.BAD_IMAGE,
        "QEMU can't open a file",
        "Check the path and its permissions; QEMU runs as you.",
    ),
)


def explain(name: str, *, source: str, status: int | None, log: str) -> KvmctlError:
    """The error for a QEMU that was started by the spec in the file `source`, ended with `status` (negative for a
    signal) and printed `log`."""
    log = _unstamp(log)
    ended = _describe(status)
    for rule in _RULES:
        if rule.pattern.search(log):
            error = rule.make(f"cannot start {name!r}: {rule.summary}", detail=log, hint=rule.hint)
            error.verdict = Verdict(rule.kind, rule.summary, _matching(rule.pattern, log), rule.hint)
            return error
    hint = f"See the command line: kvmctl argv {quote(source)}"
    failed = LaunchFailed(f"QEMU {ended} while starting {name!r}", detail=log, hint=hint)
    is_killed = status is not None and status < 0
    kind = VerdictKind.QEMU_KILLED if is_killed else VerdictKind.QEMU_REFUSED
    failed.verdict = Verdict(kind, f"QEMU {ended} before the machine ran", last_lines(plain(log)), hint)
    return failed


_BY_ERROR: Final = (
    (ImageBusy, VerdictKind.IMAGE_LOCKED),
    (PortBusy, VerdictKind.PORT_TAKEN),
    (KvmUnavailable, VerdictKind.NO_KVM),
    (ImageError, VerdictKind.BAD_IMAGE),
    (LaunchFailed, VerdictKind.QEMU_REFUSED),
)


def judge_start(error: KvmctlError) -> None:
    """Add the verdict to an error that a start ended in before there was a QEMU, where it is one of these."""
    for error_class, kind in _BY_ERROR:
        if error.verdict is None and isinstance(error, error_class):
            error.verdict = Verdict(kind, error.summary, last_lines(plain(error.detail)), error.hint)


def _matching(pattern: re.Pattern[str], log: str) -> tuple[str, ...]:
    return tuple(line for line in plain(log).splitlines() if pattern.search(line))


def _describe(status: int | None) -> str:
    if status is None:
        return "closed its monitor"
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


def _unstamp(log: str) -> str:
    """`log` without the times that ``-msg timestamp=on`` puts before each line."""
    return "\n".join(_STAMP.sub("", line) for line in log.strip().splitlines())
