"""Kernels out of the distribution's packages, fetched once and kept."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kvmctl import files
from kvmctl.guest.init import GROUPS
from kvmctl.image.kernel.find import KernelFiles
from kvmctl.image.kernel.package import PackagedKernel, read_kernel
from kvmctl.image.packages.apt import Apt
from kvmctl.image.packages.sources import Sources, kernel_packages
from kvmctl.plan.paths import Roots

_WANTED: Final = [name for names in GROUPS.values() for name in names]


def fetch_kernel(package: str, *, roots: Roots, anew: bool = False, say: Callable[[str], None]) -> KernelFiles:
    """The kernel that `package` is, or stands for; fetched by apt unless it is here, or `anew`. Two who ask at once
    fetch it once.

    Raises AptError, StateError.
    """
    directory = roots.kernel(package)
    if not anew and (found := _find(directory)):
        return found
    files.make_private_dir(roots.kernel_cache)
    lock = files.open_append(f"{directory}.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not anew and (found := _find(directory)):
            return found
        say(f"fetching the kernel {package}")
        return _fetch(package, directory)
    finally:
        os.close(lock)


def _find(directory: str) -> KernelFiles | None:
    with suppress(OSError, ValueError, KeyError):
        record = json.loads(Path(directory, "kernel.json").read_bytes())
        if record["wanted"] == _WANTED:
            return KernelFiles(f"{directory}/vmlinuz", record["version"], f"{directory}/modules")
    return None


def _fetch(package: str, directory: str) -> KernelFiles:
    fresh = f"{directory}.new"
    files.remove_tree(fresh)
    files.make_private_dir(fresh)
    try:
        apt = Apt(Path(fresh, "apt"))
        if apt.find_candidate([package]) is None:
            apt.refresh()
        sources = Sources(apt)
        kernel = read_kernel(sources, kernel_packages(apt, package), wanted=_WANTED)
        record = {"version": kernel.version, "packages": sources.used, "wanted": _WANTED}
        files.remove_tree(f"{fresh}/apt")
        _write(kernel, fresh)
        files.write_atomic(f"{fresh}/kernel.json", json.dumps(record).encode(), is_volatile=True)
        files.remove_tree(directory)
        os.rename(fresh, directory)
    finally:
        files.remove_tree(fresh)
    return KernelFiles(f"{directory}/vmlinuz", kernel.version, f"{directory}/modules")


def _write(kernel: PackagedKernel, directory: str) -> None:
    files.make_private_dir(f"{directory}/modules")
    files.write_atomic(f"{directory}/vmlinuz", kernel.image, is_volatile=True)
    files.write_atomic(f"{directory}/modules/modules.builtin", kernel.builtin.encode(), is_volatile=True)
    for module in kernel.modules:
        files.write_atomic(f"{directory}/modules/{module.name}.ko", module.data, is_volatile=True)
