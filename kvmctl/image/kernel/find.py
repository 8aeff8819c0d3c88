"""Finding a kernel on this host, and its modules, by what people call it: a file, a build tree, a version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import ImageError, NotFound
from kvmctl.image.initramfs.modules import module_name
from kvmctl.image.kernel.bzimage import HEADER_SIZE, find_version, is_bzimage

BOOT: Final = "/boot"
MODULES: Final = "/lib/modules"
_BUILT: Final = "arch/x86/boot/bzImage"
"""Where a kernel's build leaves its image."""
_GIVE: Final = (
    "Give one with --kernel: the name of a package (linux-image-cloud-amd64, which apt fetches without root), "
    "the path of a bzImage or of a kernel's build tree, or a version that is installed."
)


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """A kernel on this host."""

    image: str
    """The path of its bzImage."""
    version: str
    """What ``uname -r`` will say."""
    modules: str | None
    """The directory under which its modules are; None where none was found, so that all must be built in."""


def is_path(reference: str) -> bool:
    """Whether a kernel is called by the path of a file or directory."""
    return "/" in reference


def is_package(reference: str) -> bool:
    """Whether a kernel is called by the name of a package."""
    return not is_path(reference) and reference.startswith("linux-image-")


def find_kernel(
    reference: str | None, *, modules: str | None = None, boot: str = BOOT, lib: str = MODULES
) -> KernelFiles:
    """The kernel of that path or version, or the one that runs; its modules under `modules` if that is given.

    Raises NotFound for what is not there, ImageError for what can't be read or is no x86 Linux kernel.
    """
    image = _at_path(reference) if reference and is_path(reference) else _of_version(reference, boot=boot, lib=lib)
    version = _read_version(image)
    if modules is not None:
        if not os.path.isdir(modules):
            raise NotFound(f"there is no directory {modules!r}, where the kernel's modules should be")
        return KernelFiles(image, version, os.path.abspath(modules))
    found = (place for place in _places_of_modules(image, version, lib=lib) if os.path.isdir(place))
    return KernelFiles(image, version, next(found, None))


def _at_path(path: str) -> str:
    whole = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(whole):
        if not os.path.exists(whole):
            raise NotFound(f"there is no kernel {path!r}", hint=_GIVE)
        return whole
    for name in (_BUILT, "vmlinuz"):
        if os.path.exists(os.path.join(whole, name)):
            return os.path.join(whole, name)
    raise NotFound(
        f"there is no kernel in the directory {path!r}: neither {_BUILT} nor vmlinuz", hint="Build it first."
    )


def _of_version(version: str | None, *, boot: str, lib: str) -> str:
    release = version or os.uname().release
    places = (f"{boot}/vmlinuz-{release}", f"{lib}/{release}/vmlinuz")
    for place in places:
        if os.path.exists(place):
            return place
    which = (
        f"there is no kernel {release!r}" if version else f"the kernel that runs, {release!r}, is not here as a file"
    )
    others = ", ".join(installed(boot=boot, lib=lib))
    raise NotFound(
        f"{which}: neither {places[0]} nor {places[1]} exists",
        detail=f"installed: {others}" if others else "",
        hint=_GIVE,
    )


def installed(*, boot: str = BOOT, lib: str = MODULES) -> list[str]:
    """The versions of the kernels that are installed on this host."""
    found = {name.removeprefix("vmlinuz-") for name in _list(boot) if name.startswith("vmlinuz-")}
    found |= {name for name in _list(lib) if os.path.exists(f"{lib}/{name}/vmlinuz")}
    return sorted(found)


def _places_of_modules(image: str, version: str, *, lib: str) -> Iterator[str]:
    """Where the modules of a kernel may be, the likeliest first."""
    directory = os.path.dirname(image)
    if image.endswith(f"/{_BUILT}"):
        yield image.removesuffix(f"/{_BUILT}")
    if os.path.basename(directory) == version:
        yield directory
    yield f"{directory}{MODULES}/{version}"
    yield f"{os.path.dirname(directory)}{MODULES}/{version}"
    yield f"{directory}/modules"
    yield f"{lib}/{version}"


def _read_version(image: str) -> str:
    try:
        with open(image, "rb") as file:
            head = file.read(HEADER_SIZE)
    except OSError as error:
        hint = "Copy it to where you may read it, or take a package." if isinstance(error, PermissionError) else ""
        raise ImageError(f"the kernel {image!r} can't be read: {error.strerror}", hint=hint) from error
    version = find_version(head) if is_bzimage(head) else None
    if version is None:
        raise ImageError(f"{image!r} is no x86 Linux kernel (a bzImage)", hint=_GIVE)
    return version


def module_files(directory: str) -> dict[str, str]:
    """The files of the modules under `directory`, by the modules' names."""
    found: dict[str, str] = {}
    for place, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NO_MODULES)
        for name in names:
            if module := module_name(name):
                found.setdefault(module, os.path.join(place, name))
    return found


_NO_MODULES: Final = frozenset({"build", "source", "Documentation", "include", "scripts", "tools"})
"""Directories of a build tree, or links to one, in which there is much to look through and nothing to find."""


def find_builtin(directory: str) -> str | None:
    """The ``modules.builtin`` under `directory`; None where there is none."""
    path = os.path.join(directory, "modules.builtin")
    return path if os.path.exists(path) else None


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
