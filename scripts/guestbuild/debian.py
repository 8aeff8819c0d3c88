"""The guest debian: what ``kvmctl image build debian`` builds, with its kernel and initramfs beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from kvmctl.image.build.debian import BuildProgress, build_debian

PARTS = ("scripts/guestbuild/debian.py", "kvmctl/image/build")
OUTPUTS = ("disk.qcow2", "vmlinuz", "initrd.img")


def build(directory: Path) -> dict[str, object]:
    """Make the files; what they are made of. Raises KvmctlError."""
    built = build_debian(
        directory / "disk.qcow2", work=str(directory / "work"), boot_files=str(directory), on_progress=tell
    )
    return {"suite": built.suite, "kernel": built.kernel, "packages": built.packages}


def tell(progress: BuildProgress) -> None:
    print(f"{progress.number} of {progress.total}: {progress.step}", file=sys.stderr)
