"""Whether the host's kernel killed a process because memory ran out: its log says so, to those who may read it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_KILLED: Final = re.compile(
    r"(?P<reason>Out of memory|Memory cgroup out of memory|oom_kill_allocating_task).*?: Killed process (?P<pid>\d+) "
)
_RECORD: Final = re.compile(r"^\d+,\d+,(?P<microseconds>\d+),[^;]*;(?P<text>.*)$")
_RECORD_MAX: Final = 8192
"""Bytes of one record of /dev/kmsg, at most (Documentation/ABI/testing/dev-kmsg)."""


def find_oom_kill(records: Iterable[str], pid: int, *, since: float, booted: float) -> str:
    """What the kernel's log says of process `pid` being killed for want of memory since `since`; empty if nothing.

    `records` are those of /dev/kmsg; `since` and `booted`, when the kernel's clock began, in seconds since the epoch.
    A process id may have been another's before.
    """
    for record in records:
        head = _RECORD.match(record)
        if head is None:
            continue
        found = _KILLED.search(head["text"])
        if found and int(found["pid"]) == pid and booted + int(head["microseconds"]) / 1e6 >= since - 1:
            return head["text"]
    return ""


def read_oom_kill(pid: int, *, since: float) -> str:
    """The same of this host's kernel; empty where its log may not be read (``kernel.dmesg_restrict``)."""
    booted = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    return find_oom_kill(_read_records(), pid, since=since, booted=booted)


def _read_records() -> Iterable[str]:
    """The records that the kernel still has, oldest first."""
    records: list[str] = []
    with suppress(OSError):  # not permitted, or the end: it would block there
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _read_into(records, descriptor)
        finally:
            os.close(descriptor)
    return records


def _read_into(records: list[str], descriptor: int) -> None:
    while True:
        try:
            records.append(os.read(descriptor, _RECORD_MAX).decode(errors="replace").partition("\n")[0])
        except BrokenPipeError:
            continue  # overwritten while we read: the next one is there
