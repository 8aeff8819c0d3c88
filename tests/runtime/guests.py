"""The small Linux guest as machines of tests: with the kernel for clouds, or the one for all hardware, which has 9p."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import kvmctl
from kvmctl import Machine
from kvmctl.spec.load import from_mapping

ROOT = Path(__file__).parents[2]
_WATCH = (
    "worst=0; i=0; read a _ </proc/uptime; touch /watching; "
    "while [ ! -e /stop ] || [ $i -lt 3 ]; do read b _ </proc/uptime; "
    "gap=$(( ${b%.*}${b#*.} - ${a%.*}${a#*.} )); [ $gap -gt $worst ] && worst=$gap; a=$b; "
    "[ -e /stop ] && i=$((i+1)); done; echo $worst"
)


def build(*options: str) -> tuple[str, str]:
    """Kernel and initramfs of a guest that scripts/build-guest makes, made if need be."""
    command = [sys.executable, ROOT / "scripts/build-guest", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    kernel, initramfs, *_ = done.stdout.split()
    return kernel, initramfs


def linux(files: tuple[str, str], name: str = "web", **tables: Any) -> Machine:
    """The guest of these files as a machine of this name."""
    kernel, initramfs = files
    spec = {
        "name": name,
        "memory": "256MiB",
        "accel": "tcg",
        # Of the others, acpi_pm is 24 bits wide: its kernel takes a gap of more than 2.3 seconds for none at all.
        "boot": {"kernel": kernel, "initrd": initramfs, "cmdline": "console=ttyS0 quiet panic=-1 tsc=reliable"},
        **tables,
    }
    return from_mapping(spec, source=f"{name}.toml", base=os.getcwd())


async def said(vm: kvmctl.Vm, script: str) -> str:
    """What a shell script prints that root runs in the guest, errors included."""
    result = await vm.exec(["/bin/sh", "-c", f"exec 2>&1\n{script}"])
    return result.stdout.decode(errors="replace")


async def worst_gap(vm: kvmctl.Vm, fault: Awaitable[None]) -> float:
    """The longest time, in seconds by the guest's clock, that a loop in it did not get to look at that, during `fault`.

    It takes two CPUs.
    """
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(said(vm, _WATCH))
        while "there" not in await said(vm, "[ -e /watching ] && echo there"):
            pass
        await fault
        await said(vm, "touch /stop")
    return int(watching.result()) / 100
