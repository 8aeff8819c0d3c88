"""A command in a machine made of this host, from the shell and back, against virtme-ng where that works.

virtme-ng wants udev in the host's root, ``/lib/modules`` of the kernel, a terminal, and 9p in the kernel; where it
gives no answer the row says so, and the figure stands alone.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Row, compare, interleave, kvmctl, milliseconds, timed

IMAGES = Path(__file__).resolve().parents[2] / "machines/images"
KERNELS = {"for clouds": IMAGES / "small-linux/vmlinuz", "for all hardware": IMAGES / "generic-linux/vmlinuz"}
"""As scripts/build-guest makes them."""
RUNS = 7
BOUND = "≤ 0.6"
_PATIENCE = 60.0


def measure() -> list[Row]:
    return [row for name, kernel in KERNELS.items() if kernel.exists() for row in measure_kernel(name, kernel)]


def measure_kernel(name: str, kernel: Path) -> Iterator[Row]:
    what = f"CLI: run --host-root -- uname -r, kernel {name}, against vng"
    command = kvmctl("run", "--host-root", "--kernel", str(kernel), "--", "uname", "-r")
    # It does without no terminal; and it would take a KVM that kvmctl knows to be of no use here.
    peer = ["script", "-qec", f"vng {'' if has_kvm() else '--disable-kvm '}--run {kernel} -- uname -r", "/dev/null"]
    why = why_not(peer)
    if why:
        (ours,) = interleave(RUNS, lambda: timed(command))
        yield Row(what, milliseconds(statistics.median(ours)), why, "", BOUND)
        return
    yield compare(what, *interleave(RUNS, lambda: timed(command), lambda: timed(peer)), bound=BOUND)


def has_kvm() -> bool:
    """Whether machines run under KVM here."""
    report = json.loads(subprocess.run(kvmctl("doctor", "--json"), check=False, capture_output=True).stdout)
    return bool(report["verdict"]["accel"] == "kvm")


def why_not(command: list[str]) -> str:
    """Why the peer can't be measured; empty where it answers as it should."""
    if shutil.which("vng") is None or shutil.which("script") is None:
        return "vng is not installed"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"vng did not answer within {_PATIENCE:g} s"
    return "" if done.returncode == 0 else f"vng exited with {done.returncode}"
