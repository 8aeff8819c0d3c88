"""The small Linux guest as machines of tests: with the kernel for clouds, or the one for all hardware, which has 9p."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kvmctl
from kvmctl import Machine
from kvmctl.spec.load import from_mapping

ROOT = Path(__file__).parents[2]


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
        "boot": {"kernel": kernel, "initrd": initramfs, "cmdline": "console=ttyS0 quiet panic=-1"},
        **tables,
    }
    return from_mapping(spec, source=f"{name}.toml", base=os.getcwd())


async def said(vm: kvmctl.Vm, script: str) -> str:
    """What a shell script prints that root runs in the guest, errors included."""
    result = await vm.exec(["/bin/sh", "-c", f"exec 2>&1\n{script}"])
    return result.stdout.decode(errors="replace")
