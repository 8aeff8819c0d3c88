"""The helper programs that machines may need: what each is for, and which package has it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Program:
    """A program, what it is for, and its package by the distribution's family."""

    name: str
    purpose: str
    packages: Mapping[str, str]
    is_used: bool
    """By this release; the others are only told of."""
    elsewhere: tuple[str, ...] = field(default=())
    """Directories off PATH where distributions put it."""
    without: str = ""
    """What is done without it; empty where nothing can be."""


def _everywhere(package: str) -> dict[str, str]:
    return dict.fromkeys(("debian", "fedora", "arch"), package)


_SSH_PACKAGES: Final = {"debian": "openssh-client", "fedora": "openssh-clients", "arch": "openssh"}

PROGRAMS: Final[tuple[Program, ...]] = (
    Program(
        "qemu-img",
        "makes and copies disk images",
        {"debian": "qemu-utils", "fedora": "qemu-img", "arch": "qemu-img"},
        is_used=True,
    ),
    Program(
        "setpriv",
        "ends machines together with the program they were started for, where QEMU can't do it itself",
        _everywhere("util-linux"),
        is_used=True,
    ),
    Program("ssh", "logs in to guests", _SSH_PACKAGES, is_used=True),
    Program("ssh-keygen", "makes the keys of machines with a [guest]", _SSH_PACKAGES, is_used=True),
    Program("swtpm", "emulates a TPM", _everywhere("swtpm"), is_used=False),
    Program("passt", "makes networks fast without root", _everywhere("passt"), is_used=False),
    Program(
        "virtiofsd",
        "shares directories with guests",
        _everywhere("virtiofsd"),
        is_used=True,
        elsewhere=("/usr/libexec", "/usr/lib", "/usr/lib/qemu"),
        without="9p is used, which not every guest's kernel has",
    ),
)
"""In the order in which they are told of."""

QEMU_PACKAGES: Final = {"debian": "qemu-system-x86", "fedora": "qemu-system-x86", "arch": "qemu-system-x86"}
UEFI_PACKAGES: Final = {"debian": "ovmf", "fedora": "edk2-ovmf", "arch": "edk2-ovmf"}

_INSTALL: Final = {"debian": "sudo apt-get install", "fedora": "sudo dnf install", "arch": "sudo pacman -S"}


def find_program(program: Program, *, env: Mapping[str, str]) -> str | None:
    """Where `program` is, on PATH or where distributions hide it."""
    return shutil.which(program.name, path=os.pathsep.join((env.get("PATH", os.defpath), *program.elsewhere)))


def install_command(packages: Mapping[str, str], *, family: str) -> str:
    """The command that installs a package on a distribution of that family, or what it is called on each."""
    if family in packages:
        return f"{_INSTALL[family]} {packages[family]}"
    names = ", ".join(f"{package} ({name.title()})" for name, package in packages.items())
    return f"install it with your package manager; it is called {names}"
