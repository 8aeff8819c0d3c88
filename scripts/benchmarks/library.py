"""The library from spec to running, against QEMU started by hand with the same arguments."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import kvmctl
from benchmarks.measure import Row, compare, interleave, interleave_async, milliseconds
from benchmarks.raw import raw_qemu
from kvmctl.plan.model import Plan
from kvmctl.runtime import prepare
from kvmctl.spec.load import from_mapping

RUNS = 60


def machine(directory: Path) -> kvmctl.Machine:
    """An ordinary machine: two CPUs, two disks, a network, and all that is on by default; nothing is booted."""
    disks = [{"path": str(directory / f"{name}.qcow2"), "format": "qcow2", "size": "1GiB"} for name in ("root", "data")]
    spec = {
        "name": "bench",
        "accel": "tcg",
        "cpus": 2,
        "memory": "256MiB",
        "disks": disks,
        "networks": [{"type": "user"}],
    }
    return from_mapping(spec, source="bench.toml", base=str(directory))


async def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ordinary = machine(directory)
        async with kvmctl.launch(ordinary):
            pass  # makes the disks, and the first probe of QEMU
        plan = kvmctl.prepare(ordinary, is_captive=True).plan  # with what ties QEMU to its launcher: the same command

        async def ours() -> float:
            began = time.perf_counter()
            async with kvmctl.launch(ordinary):
                return time.perf_counter() - began

        async def theirs() -> float:
            return time_raw(plan, directory)

        found = await interleave_async(RUNS, ours, theirs)
        (compiling,) = interleave(RUNS, lambda: time_compile(ordinary))
    return [
        compare("library: spec to running, against raw QEMU", *found, bound="≤ 1.10"),
        Row("library: the compile itself", milliseconds(statistics.median(compiling)), "", "", "< 5 ms"),
    ]


def time_raw(plan: Plan, directory: Path) -> float:
    began = time.perf_counter()
    with raw_qemu(plan, directory):
        return time.perf_counter() - began


def time_compile(ordinary: kvmctl.Machine) -> float:
    began = time.perf_counter()
    prepare.prepare(ordinary)
    return time.perf_counter() - began
