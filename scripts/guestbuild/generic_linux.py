"""The guest generic-linux: small-linux with the kernel for all hardware: it has 9p, and boots for longer."""

from __future__ import annotations

from pathlib import Path

from guestbuild import rootfs, small_linux

PARTS = (*small_linux.PARTS, "scripts/guestbuild/generic_linux.py")
OUTPUTS = small_linux.OUTPUTS


def build(directory: Path) -> dict[str, object]:
    """Make the files; what they are made of. Raises AptError."""
    return small_linux.build(directory, rootfs.GENERIC_KERNELS)
