"""The two files such a machine boots: the kernel as QEMU starts it soonest, and the initramfs made for it.

They are kept, together with the stamps of all that they were made of, and made again when one of those has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from kvmctl import files
from kvmctl.errors import ImageError, KvmctlError
from kvmctl.guest.init import GROUPS, IMAGE
from kvmctl.image.initramfs.hostroot import Modules, choose, pack
from kvmctl.image.initramfs.modules import Module, builtin_modules, parse_module
from kvmctl.image.kernel.bzimage import find_vmlinux
from kvmctl.image.kernel.find import KernelFiles, find_builtin, module_files
from kvmctl.plan.paths import Roots

_FORMAT: Final = 1
"""Raised when something else is made of the same parts."""


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What QEMU is given, and what the kernel can't do."""

    kernel: str
    initramfs: str
    version: str
    missing: Mapping[str, tuple[str, ...]]
    """The modules that a purpose (a key of `GROUPS`) needs and this kernel lacks."""


def boot_files(kernel: KernelFiles, *, roots: Roots) -> BootFiles:
    """The files to boot `kernel` with, made unless they are there. Raises ImageError, StateError."""
    record = f"{roots.boot_cache}/{_digest([_FORMAT, kernel.image, kernel.modules])}.json"
    return _find(record) or _make(kernel, record, roots=roots)


def _find(record: str) -> BootFiles | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        with open(record, encoding="utf-8") as file:
            kept = json.load(file)
        if all(_stamp(path) == [path, *stamp] for path, *stamp in kept["made_of"]) and kept["groups"] == _groups():
            missing = {group: tuple(names) for group, names in kept["files"].pop("missing").items()}
            found = BootFiles(**kept["files"], missing=missing)
            if os.path.exists(found.kernel) and os.path.exists(found.initramfs):
                return found
    return None


def _make(kernel: KernelFiles, record: str, *, roots: Roots) -> BootFiles:
    image = _read(kernel.image)
    modules, used = _choose(kernel)
    made_of = [_stamp(path) for path in (kernel.image, IMAGE, *used, *_listings(kernel))]
    directory = f"{roots.boot_cache}/{_digest([made_of, _groups()])}"
    files.make_private_dir(directory)
    initramfs = f"{directory}/initramfs.gz"
    files.write_atomic(initramfs, pack(_read(IMAGE), modules), is_volatile=True)
    try:
        vmlinux = find_vmlinux(image)
    except ValueError as error:
        raise ImageError(f"the kernel {kernel.image!r} is damaged: {error}") from error
    if vmlinux is not None:
        files.write_atomic(f"{directory}/vmlinux", vmlinux, is_volatile=True)
    started = kernel.image if vmlinux is None else f"{directory}/vmlinux"
    made = BootFiles(started, initramfs, kernel.version, modules.missing)
    _replace(record, {"made_of": made_of, "groups": _groups(), "directory": directory, "files": asdict(made)})
    return made


def _replace(record: str, content: Mapping[str, Any]) -> None:
    """Keep `content`, and remove what the record before it named."""
    before = None
    with suppress(OSError, ValueError, KeyError, TypeError), open(record, encoding="utf-8") as file:
        before = str(json.load(file)["directory"])
    files.write_atomic(record, json.dumps(content).encode(), is_volatile=True)
    if before not in {None, content["directory"]}:
        with suppress(KvmctlError):
            files.remove_tree(str(before))


def _choose(kernel: KernelFiles) -> tuple[Modules, list[str]]:
    """The modules to take along, and the files that they were found by."""
    if kernel.modules is None:
        return choose(GROUPS, lambda _: None, builtin=None), []
    places = module_files(kernel.modules)
    listing = find_builtin(kernel.modules)
    used: list[str] = [listing] if listing else []

    def find(name: str) -> Module | None:
        if name not in places:
            return None
        used.append(places[name])
        try:
            return parse_module(name, _read(places[name]))
        except (ValueError, OSError) as error:
            raise ImageError(f"the kernel module {places[name]!r} can't be read: {error}") from error

    builtin = builtin_modules(_read(listing).decode()) if listing else None
    return choose(GROUPS, find, builtin=builtin), list(dict.fromkeys(used))


def _listings(kernel: KernelFiles) -> list[str]:
    """What changes when a module comes that was not there: the directory, or what depmod or a kernel's build writes."""
    if kernel.modules is None:
        return []
    names = ("", "modules.dep", "modules.order", "modules.builtin")
    return [os.path.join(kernel.modules, name) for name in names]


def _groups() -> dict[str, list[str]]:
    """`GROUPS` as JSON has it."""
    return {group: list(names) for group, names in GROUPS.items()}


def _stamp(path: str) -> list[str | int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return [path]
    return [path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"{path!r} can't be read: {error.strerror}") from error
