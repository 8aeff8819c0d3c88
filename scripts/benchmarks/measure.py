"""Medians of interleaved runs, and the table they go into."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A line of the table. `ours` and `theirs` are medians; `bound` is what was to be reached."""

    what: str
    ours: str
    theirs: str
    ratio: str
    bound: str


def interleave(runs: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Each measure's results over `runs` rounds, in which each is taken once; a first round is thrown away."""
    rounds = [[measure() for measure in measures] for _ in range(runs + 1)][1:]
    return [list(column) for column in zip(*rounds, strict=True)]


async def interleave_async(runs: int, *measures: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """`interleave` for coroutines."""
    rounds = [[await measure() for measure in measures] for _ in range(runs + 1)][1:]
    return [list(column) for column in zip(*rounds, strict=True)]


def timed(command: Sequence[str]) -> float:
    """Seconds that a command takes as a whole process. Fails with its words."""
    began = time.perf_counter()
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if result.returncode:
        raise SystemExit(f"{' '.join(command)}: {result.stderr or result.stdout}")
    return seconds


def kvmctl(*words: str) -> list[str]:
    """The command line of the kvmctl in this tree, as its console script runs it."""
    script = Path(sys.executable).with_name("kvmctl")
    return [str(script), *words] if script.exists() else [sys.executable, "-m", "kvmctl", *words]


def compare(what: str, ours: Sequence[float], theirs: Sequence[float], *, bound: str) -> Row:
    """A row of two series of seconds."""
    mine, other = statistics.median(ours), statistics.median(theirs)
    return Row(what, milliseconds(mine), milliseconds(other), f"{mine / other:.3g}", bound)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("what", "kvmctl", "peer", "ratio", "to reach")
    lines = [head, ("---",) * len(head), *((row.what, row.ours, row.theirs, row.ratio, row.bound) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe_host() -> str:
    """The machine that was measured on, in one paragraph."""
    model = next(
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    programs = [first_line(words) for words in (["qemu-system-x86_64", "--version"], ["virsh", "--version"])]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {programs[0]}, libvirt {programs[1]}."
    )


def first_line(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return "not installed"
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()[0]
