"""The guest small-linux: two files, with the same bytes whenever the packages are the same."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

from guestbuild import rootfs
from kvmctl.image.packages.apt import Apt

PARTS = ("scripts/guestbuild/rootfs.py", "scripts/guestbuild/small_linux.py", "scripts/guestbuild/files",
         "kvmctl/image/initramfs", "kvmctl/image/packages")  # fmt: skip
OUTPUTS = ("vmlinuz", "initramfs.gz")


def build(directory: Path) -> dict[str, object]:
    """Make the files; what they are made of. Raises AptError."""
    apt = Apt(directory / "apt")
    try:
        guest = rootfs.build(apt)
    finally:
        apt.forget()
    contents = {"vmlinuz": guest.kernel, "initramfs.gz": gzip.compress(guest.initramfs, 6, mtime=0)}
    for name, data in contents.items():
        write(directory / name, data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    return {"packages": guest.packages, "sha256": digests}


def write(path: Path, data: bytes) -> None:
    """Replace a file in one step: a build that is cut off leaves the one before."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    os.replace(fresh, path)
