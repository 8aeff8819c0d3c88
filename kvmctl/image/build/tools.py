"""The programs that a build needs: what must be here, and what is taken from packages without being installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import HostError, ImageError
from kvmctl.image.build.mirrors import KEYRING
from kvmctl.image.packages.apt import Apt
from kvmctl.image.packages.deb import Member
from kvmctl.image.packages.sources import Sources

NEEDED: Final = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "perl": "perl",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "qemu-img": "qemu-utils",
}
"""Programs that are used as they are here, and the packages that have them."""

BOOT_PACKAGES: Final = ("grub-common", "grub-pc-bin", "grub-efi-amd64-signed", "shim-signed", "mtools")
"""What makes a disk bootable: all of it is taken from packages, so that it fits together."""

_KEPT: Final = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "APT_CONFIG", "TERM")
_LIBRARIES: Final = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_SYSTEM_DIRECTORIES: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
"""An ordinary user's PATH may lack those that mke2fs and chroot are in."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a build works with. `directory` has what was unpacked."""

    directory: str
    mmdebstrap: str
    hooks: str
    """mmdebstrap's own collection of hooks."""
    environment: dict[str, str]
    """For programs of a build: with the directory first, and no more of the user's own than is of use."""

    def read(self, name: str) -> bytes:
        """A file that was unpacked, by its path in its package."""
        with open(self.path(name), "rb") as file:
            return file.read()

    def path(self, name: str) -> str:
        """Where such a file is."""
        return os.path.join(self.directory, name)


def check_host(path: str | None = None) -> None:
    """See that the programs are here and the machine is of the one kind. Raises HostError, naming all that lacks."""
    if os.uname().machine != "x86_64":
        raise HostError(f"Debian images are built for x86-64, on x86-64; this is {os.uname().machine!r}")
    search = path or search_path(os.environ.get("PATH", os.defpath))
    missing = {name: package for name, package in NEEDED.items() if shutil.which(name, path=search) is None}
    if "apt-get" in missing:
        raise HostError("'apt-get' is not here", hint="What is made of packages is made on Debian or Ubuntu.")
    if missing:
        names = ", ".join(repr(name) for name in missing)
        hint = f"Install what has them: apt-get install {' '.join(sorted(set(missing.values())))}"
        raise HostError(f"building an image needs {names}, not found here", hint=hint)


def search_path(path: str) -> str:
    """`path` and the directories that an ordinary user's may lack."""
    known = path.split(os.pathsep)
    return os.pathsep.join([*known, *(item for item in _SYSTEM_DIRECTORIES if item not in known)])


def unpack_tools(apt: Apt, directory: str) -> Tools:
    """Unpack into `directory` what is not here. Raises AptError."""
    sources = Sources(apt)
    path = search_path(os.environ.get("PATH", os.defpath))
    mmdebstrap, libraries = shutil.which("mmdebstrap", path=path), ""
    packages = [*BOOT_PACKAGES, *_parts(apt, "grub-common", ("libdevmapper",))]
    if mmdebstrap is None:
        packages.append("mmdebstrap")
        if not _has_perl_modules():
            packages += _parts(apt, "perl", ("perl-modules-", "libperl"))
            libraries = ":".join(os.path.join(directory, place) for place in _perl_directories())
    if not os.path.exists(KEYRING):
        packages.append("debian-archive-keyring")
    for package in packages:
        for member in sources.members(package):
            _write(member, directory)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"PATH": os.pathsep.join((os.path.join(directory, "usr/bin"), path)), "LC_ALL": "C.UTF-8"}
    environment |= {"PERL5LIB": libraries} if libraries else {}
    here = directory if mmdebstrap is None else "/"
    return Tools(
        directory,
        mmdebstrap or os.path.join(directory, "usr/bin/mmdebstrap"),
        os.path.join(here, "usr/share/mmdebstrap/hooks"),
        environment,
    )


def run(argv: Sequence[str], *, tools: Tools, doing: str, hint: str = "") -> str:
    """Run one program of a build, with libraries that were unpacked for it; its stderr. Raises ImageError."""
    environment = {
        **tools.environment,
        "LD_LIBRARY_PATH": ":".join(map(tools.path, _LIBRARIES)),
        "MTOOLS_SKIP_CHECK": "1",
    }
    done = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise ImageError(f"cannot {doing}", detail=(done.stderr or done.stdout).strip(), hint=hint)
    return done.stderr


def _parts(apt: Apt, package: str, prefixes: tuple[str, ...]) -> list[str]:
    return [name for name in apt.depends(package) if name.startswith(prefixes)]


def _has_perl_modules() -> bool:
    """Whether this is all of Perl, and not only what is essential of it."""
    argv = ["perl", "-MPod::Usage", "-MFile::Find", "-MMath::BigInt", "-e1"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _perl_directories() -> list[str]:
    version = subprocess.run(["perl", "-e", "printf '%vd', $^V"], capture_output=True, text=True, check=True).stdout
    short = ".".join(version.split(".")[:2])
    return [f"usr/share/perl/{short}", f"usr/lib/x86_64-linux-gnu/perl/{short}"]


def _write(member: Member, directory: str) -> None:
    path = os.path.join(directory, member.name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if member.target is not None:
        os.symlink(member.target, path)
        return
    with open(path, "wb") as file:
        file.write(member.data)
    os.chmod(path, member.mode & 0o755)
