"""The small Linux guest from spawn to its agent's first answer, against QEMU started by hand in the same way."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import kvmctl
from benchmarks.measure import Row, compare, interleave_async
from benchmarks.raw import raw_qemu
from kvmctl.guest.agent import Agent
from kvmctl.runtime.sockets import connect_unix

ROOT = Path(__file__).resolve().parents[2]
RUNS = 7


async def measure() -> list[Row]:
    machine = kvmctl.load(ROOT / "machines/small-linux.toml")
    prepared = kvmctl.prepare(machine, name="bench-boot")

    async def ours() -> float:
        began = time.perf_counter()
        async with kvmctl.launch(machine) as vm:
            await vm.wait_for_agent()
            return time.perf_counter() - began

    async def theirs() -> float:
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            with raw_qemu(prepared.plan, Path(directory)):
                await Agent(partial(connect_unix, prepared.paths.agent), patience=None).ping()
                return time.perf_counter() - began

    found = await interleave_async(RUNS, ours, theirs)
    return [compare("library: small Linux to its agent's first answer, against raw QEMU", *found, bound="≤ 1.1")]
