"""The guest small-linux: two files, with the same bytes whenever the packages are the same."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from guestbuild import rootfs
from kvmctl.image.packages.apt import Apt
from kvmctl.image.packages.sources import KERNELS

PARTS = ("scripts/guestbuild/rootfs.py", "scripts/guestbuild/small_linux.py", "scripts/guestbuild/files",
         "kvmctl/guest/resident/resident.bin",
         "kvmctl/image/initramfs", "kvmctl/image/kernel", "kvmctl/image/packages")  # fmt: skip
MODULES = "modules"
"""The kernel's modules, beside it: ``kvmctl run --host-root --kernel vmlinuz`` finds them there."""
OUTPUTS = ("vmlinuz", "initramfs.gz", f"{MODULES}/modules.builtin")


def build(directory: Path, kernels: Sequence[str] = KERNELS) -> dict[str, object]:
    """Make the files, with the first of `kernels` to be had; what they are made of. Raises AptError."""
    apt = Apt(directory / "apt")
    try:
        guest = rootfs.build(apt, kernels)
    finally:
        apt.forget()
    contents = {"vmlinuz": guest.kernel, "initramfs.gz": gzip.compress(guest.initramfs, 6, mtime=0)}
    (directory / MODULES).mkdir(exist_ok=True)
    for name, data in (contents | {f"{MODULES}/{name}": data for name, data in guest.modules.items()}).items():
        write(directory / name, data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return {"packages": guest.packages, "sha256": digests}


def write(path: Path, data: bytes) -> None:
    """Replace a file in one step: a build that is cut off leaves the one before."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(data)
    os.replace(fresh, path)
