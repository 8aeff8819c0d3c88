"""A Debian disk from Debian's own packages: it boots by BIOS and UEFI, grows, and answers through the guest agent.

What it is made of comes from where this host's packages come from; who builds it need not be root, and nothing is
installed on the host. May import the package reader, the error tree and nothing that runs machines.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from kvmctl.errors import ImageError
from kvmctl.image import qemuimg
from kvmctl.image.build import grub, mirrors
from kvmctl.image.build.bootstrap import STEPS, base_packages, bootstrap
from kvmctl.image.build.disk import Layout, make_disk
from kvmctl.image.build.mirrors import Source
from kvmctl.image.build.tools import Tools, check_host, unpack_tools
from kvmctl.image.build.workspace import Workspace, workspace
from kvmctl.image.packages.apt import Apt

DEFAULT_SIZE: Final = 4 << 30
"""Bytes the disk shows; it takes what is in it, and machines' overlays of it may be larger."""
CMDLINE: Final = "console=tty0 console=ttyS0 quiet"
HOSTNAME: Final = "debian"
CLOUD_CONFIG: Final = """\
# Seeds on a disk, and not what clouds have. With none there, cloud-init does nothing.
datasource_list: [NoCloud, ConfigDrive, None]
"""

_NEEDED_SPACE: Final = 3 << 29
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")

OnProgress: TypeAlias = Callable[["BuildProgress"], None]


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """What is being done: step `number` of `total`."""

    number: int
    total: int
    step: str


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image that was built."""

    path: str
    size: int
    """Bytes the disk shows."""
    suite: str
    kernel: str
    """Its release, as ``uname -r`` prints it in the guest."""
    packages: dict[str, str]
    """Versions by name, of all that is installed in it."""


def build_debian(
    out: str | os.PathLike[str],
    *,
    work: str,
    suite: str | None = None,
    mirror: str | None = None,
    packages: Sequence[str] = (),
    cloud_init: bool = True,
    size: int = DEFAULT_SIZE,
    boot_files: str | None = None,
    on_progress: OnProgress | None = None,
) -> BuiltImage:
    """Build a Debian disk into the qcow2 file `out`, which is there whole, 0600, or not at all.

    `suite` is this host's own unless named; `mirror` replaces those that apt of this host knows; `packages` are
    installed besides what is always there; `size` is in bytes. The work is done in the directory `work`, where nothing
    stays. `boot_files` names a directory to leave the kernel and its initramfs in, as ``vmlinuz`` and
    ``initrd.img``. Raises HostError for what this host lacks, AptError for packages that can't be had, ImageError.
    """
    suite = mirrors.check_suite(suite or mirrors.own_suite(_os_release()))
    layout = Layout.fresh(size)
    wanted = [*base_packages(suite, cloud_init=cloud_init), *map(_check_package, packages)]
    check_host()
    steps = _Steps(on_progress)
    with workspace(work) as space:
        _check_space(space.path)
        steps.begin("Getting the tools")
        apt = Apt(Path(space.file("apt")))
        tools = unpack_tools(apt, space.file("tools"))
        sources = _find_sources(apt, suite=suite, mirror=mirror, tools=tools)
        settings = apt.settings("Acquire::http")  # and https: which proxy to go through
        owners = bootstrap(
            space, suite=suite, sources=sources, packages=wanted, settings=settings, tools=tools, on_line=steps.hear
        )
        _configure(space.file("root"), layout, sources=sources, cloud_init=cloud_init)
        steps.begin("Making the disk")
        disk = make_disk(space, layout, owners=owners, tools=tools)
        steps.begin("Compressing the image")
        qemuimg.convert(
            _qemu_img(tools), disk, os.fspath(out), source_format="raw", image_format="qcow2", compressed=True
        )
        return _describe(space, os.fspath(out), size=size, suite=suite, boot_files=boot_files)


def _configure(root: str, layout: Layout, *, sources: Sequence[Source], cloud_init: bool) -> None:
    """Write what differs from image to image."""
    root_id = str(layout.root_id)
    files = {
        "boot/grub/grub.cfg": grub.boot_config(root_id, cmdline=CMDLINE),
        "etc/fstab": f"UUID={root_id} / ext4 defaults,x-systemd.growfs 0 1\n",
        "etc/hostname": f"{HOSTNAME}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n",
        "etc/apt/sources.list.d/debian.sources": "\n".join(source.stanza for source in sources),
    }
    if cloud_init:
        files["etc/cloud/cloud.cfg.d/90_datasources.cfg"] = CLOUD_CONFIG
    for name, text in files.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)


def _describe(space: Workspace, out: str, *, size: int, suite: str, boot_files: str | None) -> BuiltImage:
    root = space.file("root")
    kernel = os.path.realpath(os.path.join(root, "vmlinuz"))
    if boot_files is not None:
        os.makedirs(boot_files, exist_ok=True)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copyfile(os.path.join(root, name), os.path.join(boot_files, name))
    with open(os.path.join(root, "var/lib/dpkg/status"), encoding="utf-8") as file:
        packages = dict(_installed(file.read()))
    return BuiltImage(out, size, suite, os.path.basename(kernel).removeprefix("vmlinuz-"), packages)


def _installed(status: str) -> Iterator[tuple[str, str]]:
    """Names and versions in dpkg's own list."""
    for block in status.split("\n\n"):
        item = dict(line.partition(": ")[::2] for line in block.splitlines() if not line.startswith(" "))
        if item.get("Status", "").endswith(" installed"):
            yield item["Package"], item["Version"]


def _find_sources(apt: Apt, *, suite: str, mirror: str | None, tools: Tools) -> list[Source]:
    repositories = [] if mirror else mirrors.parse_targets(apt.index_targets())
    keyrings = {item.entry: found for item in repositories if (found := _find_keyring(item.entry))}
    own = mirrors.KEYRING if os.path.exists(mirrors.KEYRING) else tools.path(mirrors.KEYRING.lstrip("/"))
    return mirrors.find_sources(repositories, suite=suite, mirror=mirror, keyring=own, keyrings=keyrings)


def _find_keyring(entry: str) -> str | None:
    """The keyring that an entry of apt's sources names, where it can be read."""
    path, _, number = entry.rpartition(":")
    try:
        with open(path, encoding="utf-8") as file:
            found = mirrors.find_keyring(file.read(), number=int(number))
    except (OSError, ValueError):
        return None
    return found if found and os.access(found, os.R_OK) else None


def _check_package(name: str) -> str:
    if not _PACKAGE.fullmatch(name):
        raise ImageError(f"{name!r} is not the name of a package", hint="Packages go by names such as python3-minimal.")
    return name


def _check_space(path: str) -> None:
    status = os.statvfs(path)
    if (free := status.f_bavail * status.f_frsize) < _NEEDED_SPACE:
        raise ImageError(
            f"too little space is left to build in {os.path.dirname(path)!r}: {free >> 20} MiB",
            hint=f"It takes {_NEEDED_SPACE >> 20} MiB for a minute. Free some, or point KVMCTL_CACHE_DIR elsewhere.",
        )


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _qemu_img(tools: Tools) -> str:
    return shutil.which("qemu-img", path=tools.environment["PATH"]) or "qemu-img"


@dataclass(slots=True)
class _Steps:
    """Tells of each step once, as it begins."""

    tell: OnProgress | None
    done: int = 0
    current: str = ""

    def begin(self, step: str) -> None:
        if self.tell and step != self.current:
            self.current, self.done = step, self.done + 1
            self.tell(BuildProgress(self.done, len(STEPS) + 3, step))

    def hear(self, line: str) -> None:
        """A line of mmdebstrap's, which may say that a step begins."""
        for sign, step in STEPS.items():
            if line.startswith(f"I: {sign}"):
                self.begin(step)
