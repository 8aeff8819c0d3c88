"""`kvmctl list` over one and a hundred machines, and what is resident of kvmctl meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

import kvmctl
from benchmarks.measure import Row, compare, interleave, timed
from benchmarks.measure import kvmctl as command
from kvmctl.spec.load import from_mapping

RUNS = 15
MANY = 100


def measure() -> list[Row]:
    one, many = [], []
    with running(1):
        (one,) = interleave(RUNS, lambda: timed(command("list")))
    with running(MANY):
        (many,) = interleave(RUNS, lambda: timed(command("list")))
        resident = sorted(residents())
    row = compare(f"CLI: list with {MANY} machines running, against with 1", many, one, bound="≤ 1.5")
    found = ", ".join(resident) or "none"
    return [row, Row(f"processes of kvmctl while {MANY} machines run", found, "", "", "none")]


@contextmanager
def running(count: int) -> Iterator[None]:
    """So many tiny machines in the background."""
    names = [f"bench{index}" for index in range(count)]
    try:
        asyncio.run(start_all(names))
        yield
    finally:
        for name in names:
            with suppress(kvmctl.NotFound, kvmctl.NotRunning):
                kvmctl.kill(name)
            with suppress(kvmctl.NotFound):
                kvmctl.remove(name)


async def start_all(names: list[str]) -> None:
    for name in names:
        spec = {
            "name": name,
            "accel": "tcg",
            "memory": "16MiB",
            "firmware": "qboot.rom",
            "boot": {"kernel": "builtin:tiny"},
        }
        async with await kvmctl.start(from_mapping(spec, source=name, base="/")) as vm:
            await vm.pause()  # a hundred guests' timers are a load of their own, which is not what is measured


def residents() -> Iterator[str]:
    """The processes of kvmctl that have to do with these machines, QEMU and this one left out."""
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        words, variables = process.info["cmdline"] or [], process.info["environ"] or {}
        is_qemu = any("qemu-system" in word for word in words[:1])
        is_ours = variables.get("KVMCTL_RUNTIME_DIR") == os.environ["KVMCTL_RUNTIME_DIR"]
        if is_ours and not is_qemu and process.info["pid"] not in family():
            yield f"{process.info['pid']} {' '.join(words)[:80]}"


def family() -> set[int]:
    """This process and those above it."""
    return {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
