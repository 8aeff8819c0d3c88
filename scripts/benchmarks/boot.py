"""Guests from spawn to their agent's first answer, against QEMU started by hand in the same way."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import kvmctl
from benchmarks.measure import Row, compare, interleave_async
from benchmarks.raw import raw_qemu
from kvmctl.guest.agent import Agent
from kvmctl.runtime.agentline import connect_agent
from kvmctl.spec.load import from_mapping

ROOT = Path(__file__).resolve().parents[2]
RUNS = 7
DEBIAN = ROOT / "machines/images/debian/disk.qcow2"
DEBIAN_RUNS = 3


async def measure() -> list[Row]:
    machine = kvmctl.load(ROOT / "machines/small-linux.toml")
    return [await measure_machine(machine, name="small Linux", runs=RUNS), *await measure_debian()]


async def measure_debian() -> list[Row]:
    """The Debian guest after its first boot, which made keys and took its disk: each run begins with the same disk."""
    if not DEBIAN.exists():
        return []
    async with settled_debian() as settled:
        disk = settled.with_name("disk.qcow2")
        begin = partial(overlay, settled, disk)
        begin()
        return [await measure_machine(debian_machine(disk), name="Debian", runs=DEBIAN_RUNS, before=begin)]


@asynccontextmanager
async def settled_debian() -> AsyncIterator[Path]:
    """The disk of the Debian guest after its first boot, to lay others over, in a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        settled = Path(directory) / "settled.qcow2"
        overlay(DEBIAN, settled)
        async with kvmctl.launch(debian_machine(settled)) as vm:
            await vm.wait_for_agent()
            await vm.exec(["systemctl", "is-system-running", "--wait"])
            await vm.press_power_button()
            await vm.wait()
        yield settled


async def measure_machine(
    machine: kvmctl.Machine, *, name: str, runs: int, before: Callable[[], None] = lambda: None
) -> Row:
    """A row of `runs` interleaved boots, `before` each of which something is done that does not count."""
    prepared = kvmctl.prepare(machine, name=f"bench-{machine.name}")

    async def ours() -> float:
        before()
        began = time.perf_counter()
        async with kvmctl.launch(machine) as vm:
            await vm.wait_for_agent()
            return time.perf_counter() - began

    async def theirs() -> float:
        before()
        with tempfile.TemporaryDirectory() as directory:
            began = time.perf_counter()
            with raw_qemu(prepared.plan, Path(directory)):
                await Agent(partial(connect_agent, prepared.paths), patience=None).ping()
                return time.perf_counter() - began

    found = await interleave_async(runs, ours, theirs)
    return compare(f"library: {name} to its agent's first answer, against raw QEMU", *found, bound="≤ 1.1")


def debian_machine(disk: Path) -> kvmctl.Machine:
    spec = {"memory": "1GiB", "cpus": 2, "disks": [{"path": str(disk)}], "networks": [{"type": "user"}]}
    return from_mapping(spec, source="debian.toml", base=str(ROOT))


def overlay(backing: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", path]
    subprocess.run(command, check=True)
