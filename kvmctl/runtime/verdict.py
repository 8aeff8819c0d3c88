"""QEMU's last words, understood: what it printed when it did not come up, to the error that says what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote

from kvmctl.errors import HostError, ImageBusy, ImageError, KvmctlError, KvmUnavailable, LaunchFailed, PortBusy

_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z\s*")


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    make: Callable[..., KvmctlError]
    summary: str
    hint: str


_RULES = (
    _Rule(
        re.compile(r'Failed to get (?:shared )?"\w+" lock'),
        ImageBusy,
        "a disk image is in use by another process",
        "Stop the machine that has it; `kvmctl list` shows those of yours.",
    ),
    _Rule(
        re.compile(r"Could not access KVM kernel module: Permission denied"),
        KvmUnavailable,
        "no permission to use /dev/kvm",
        "See: kvmctl doctor",
    ),
    _Rule(
        re.compile(r"Could not access KVM kernel module|failed to initialize kvm", re.IGNORECASE),
        KvmUnavailable,
        "QEMU can't use KVM",
        'See: kvmctl doctor; or set accel = "tcg"',
    ),
    _Rule(
        re.compile(r"Address already in use|Could not set up host forwarding rule", re.IGNORECASE),
        PortBusy,
        "a port that QEMU was to listen on is taken",
        "Choose another port, or 0 to let one be found.",
    ),
    _Rule(
        re.compile(r"cannot set up guest memory|Cannot allocate memory", re.IGNORECASE),
        HostError,
        "the host has not enough memory for the machine",
        "Give it less memory, or free some: see `free -h` and, for hugepages, /proc/meminfo.",
    ),
    _Rule(
        re.compile(r"Image is not in (\S+) format|Could not read qcow2 header", re.IGNORECASE),
        ImageError,
        "a disk image is not in the format given",
        "Look at it with `qemu-img info` and correct the disk's format in the spec.",
    ),
    _Rule(
        re.compile(r"Could not open '.*': (Permission denied|No such file)"),
        ImageError,
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
            return rule.make(f"cannot start {name!r}: {rule.summary}", detail=log, hint=rule.hint)
    hint = f"See the command line: kvmctl argv {quote(source)}"
    return LaunchFailed(f"QEMU {ended} while starting {name!r}", detail=log, hint=hint)


def _describe(status: int | None) -> str:
    if status is None:
        return "closed its monitor"
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


def _unstamp(log: str) -> str:
    """`log` without the times that ``-msg timestamp=on`` puts before each line."""
    return "\n".join(_STAMP.sub("", line) for line in log.strip().splitlines())
