"""What a machine made of its host is to be, and the spec and init's settings that this comes to. Pure but for looking
at directories."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from kvmctl.errors import HostError, KvmctlError, NotFound
from kvmctl.guest.init import PORT_NAME
from kvmctl.plan.model import Plan
from kvmctl.runtime.hostroot.bootfiles import BootFiles
from kvmctl.spec.load import from_mapping
from kvmctl.spec.machine import Machine

NAME: Final = "host-root"
CHANNEL: Final = "init"
"""The id of the port to init, and the stem of its socket."""
_CMDLINE: Final = (
    "console=ttyS0 quiet panic=-1 "  # a panic is told on the console, which is logged, and ends the machine
    "random.trust_cpu=1 "  # the only source: a device and its driver would cost more than they give
    "cryptomgr.notests no_timer_check"  # 0.2 s and 0.1 s of a boot without KVM, for what no guest here is about
)
_MOUNT_POINTS: Final = ("proc", "sys", "dev", "run", "tmp")
_9P_OPTIONS: Final = "trans=virtio,version=9p2000.L,msize=512000,cache="
# What QEMU's user network is made of (QEMU, net/slirp.c): the same for every machine.
_ADDRESS, _MASK, _GATEWAY, _NAMES = "10.0.2.15", "255.255.255.0", "10.0.2.2", "10.0.2.3"


@dataclass(frozen=True, slots=True)
class HostRoot:
    """A machine made of this host: a directory of it as the guest's root, read-only whatever the guest tries.

    The guest is the user who made it: its root may read what that user may, and no more.
    """

    root: str = "/"
    """The directory; ``/`` is the host's own root."""
    kernel: str | None = None
    """The path of a bzImage or of a kernel's build tree, an installed version, or the name of a package that apt
    fetches; None is the kernel that runs."""
    modules: str | None = None
    """The directory with the kernel's modules; looked for beside the kernel unless given."""
    fetch: bool = False
    """Fetch the kernel's package anew."""
    cmdline: str = ""
    """More for the kernel's command line."""
    writable: bool = False
    """The guest may write everywhere; what it wrote is in its memory, and gone with it."""
    write: tuple[str, ...] = ()
    """Directories of the host below `root` that the guest writes for real."""
    directory: str | None = None
    """Where commands are run, as a path of the host; the working directory unless given, if it is below `root`."""
    network: bool = False
    """A network card on QEMU's user network."""
    memory: int = 512 << 20
    """Bytes."""
    cpus: int = 1
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    fresh: bool = False
    """See within a second what the host changes meanwhile, which costs time where many files are read."""

    @property
    def is_covered(self) -> bool:
        """Whether a layer in the guest's memory is over the root: for what is written, or for the directories that
        every Linux mounts something on and a bare tree has not."""
        return self.writable or not all(os.path.isdir(os.path.join(self.root, name)) for name in _MOUNT_POINTS)

    def guest_path(self, path: str) -> str | None:
        """Where `path` of the host is in the guest; None for what is not below `root`."""
        whole, root = os.path.realpath(path), os.path.realpath(self.root)
        if root == "/":
            return whole
        if whole != root and not whole.startswith(f"{root}/"):
            return None
        return whole.removeprefix(root) or "/"

    def start_directory(self) -> str:
        """Where commands are run, in the guest. Raises KvmctlError for a place that is not in it."""
        if self.directory is not None:
            return self._inside(self.directory, "the directory to run in")
        return self.guest_path(os.getcwd()) or "/"

    def write_directories(self) -> Iterator[tuple[str, str]]:
        """The directories to be written, as the host and as the guest calls them. Raises NotFound, KvmctlError."""
        for path in self.write:
            if not os.path.isdir(path):
                raise NotFound(f"there is no directory {path!r} for the guest to write")
            inside = self._inside(path, "the directory to write")
            if inside == "/":
                raise KvmctlError(
                    f"{path!r} is all of the guest's root, which is not given away for writing",
                    hint="Name the directories that are to be written; or let it write to memory (--rw).",
                )
            yield os.path.realpath(path), inside

    def _inside(self, path: str, what: str) -> str:
        inside = self.guest_path(path)
        if inside is None:
            raise KvmctlError(f"{what}, {path!r}, is not below {self.root!r}, the guest's root")
        return inside


def machine_of(wanted: HostRoot, boot: BootFiles) -> Machine:
    """The machine that boots `boot`. Raises NotFound, HostError, SpecError, KvmctlError."""
    _check_kernel(wanted, boot)
    return from_mapping(_spec(wanted, boot), source=f"{NAME}.toml", base="/")


def _spec(wanted: HostRoot, boot: BootFiles) -> Mapping[str, Any]:
    driver = _driver(wanted, boot)
    cache = "auto" if wanted.fresh else "always"
    path = os.path.realpath(wanted.root)
    root = {"path": path, "tag": "root", "read_only": True, "driver": driver, "cache": cache}
    root["submounts"] = not wanted.is_covered
    written = [
        {"path": outside, "tag": f"write{index}", "driver": driver}
        for index, (outside, _) in enumerate(wanted.write_directories())
    ]
    return {
        "name": NAME,
        "accel": wanted.accel,
        "cpus": wanted.cpus,
        "memory": {"size": wanted.memory},
        "boot": {"kernel": boot.kernel, "initrd": boot.initramfs, "cmdline": f"{_CMDLINE} {wanted.cmdline}".strip()},
        "shares": [root, *written],
        "channels": [{"name": PORT_NAME, "id": CHANNEL}],
        "networks": [{"type": "user"}] if wanted.network else [],
        "on_reboot": "shutdown",
        # What a command that is over in a moment has no use for, and the guest would look for while it boots.
        "agent": False,
        "balloon": False,
        "rng": False,
        "panic": False,
        "pci": {"spare_root_ports": 0},
    }


def _driver(wanted: HostRoot, boot: BootFiles) -> str:
    """How to share directories, by what the kernel has. Raises HostError."""
    has = [driver for driver in ("virtiofs", "9p") if driver not in boot.missing]
    if not has:
        raise HostError(
            f"the kernel {boot.version} can't mount a shared directory: it has neither virtiofs nor 9p",
            hint="Take another kernel, or give its modules with --modules DIR.",
        )
    if wanted.is_covered and os.geteuid() not in {0, os.stat(wanted.root).st_uid}:
        # An overlay opens what is below it with O_NOATIME, which is for owners; virtiofsd passes that on, and Linux
        # refuses. QEMU's 9p does without then (hw/9pfs/9p-util.h).
        if "9p" not in has:
            raise HostError(
                f"the kernel {boot.version} can't put a writable layer over files of others for you: it lacks 9p",
                hint="Take a kernel with 9p (linux-image-amd64), or be root, or write to directories (--rwdir).",
            )
        return "9p"
    return "auto" if len(has) > 1 else has[0]


def _check_kernel(wanted: HostRoot, boot: BootFiles) -> None:
    needed = {"boot": "be run so", "overlay": "have a layer over its root", "network": "have a network"}
    used = {"boot": True, "overlay": wanted.is_covered, "network": wanted.network}
    for group, purpose in needed.items():
        if used[group] and group in boot.missing:
            names = ", ".join(boot.missing[group])
            raise HostError(
                f"the kernel {boot.version} can't {purpose}: it lacks {names}",
                hint="Take another kernel, or give its modules with --modules DIR.",
            )


def settings_of(wanted: HostRoot, plan: Plan) -> list[tuple[str, str]]:
    """How init is to make the root, in its words; their order matters."""
    pairs = [("hostname", socket.gethostname()), ("keep", wanted.start_directory())]
    if wanted.is_covered:
        pairs.append(("layer", "writable" if wanted.writable else "read-only"))
    if wanted.network:
        pairs.append(("network", " ".join(map(_number, (_ADDRESS, _MASK, _GATEWAY)))))
        pairs.append(("resolver", f"nameserver {_NAMES}\n"))
    root, *written = plan.shares
    pairs += [("type", root.driver), ("options", _options(root.driver, "loose")), ("root", root.tag)]
    pairs.append(("options", _options(root.driver, "mmap")))
    places = [inside for _, inside in wanted.write_directories()]
    pairs += [("share", f"{share.tag}:{inside}") for share, inside in zip(written, places, strict=True)]
    return pairs


def _options(driver: str, cache: str) -> str:
    return f"{_9P_OPTIONS}{cache}" if driver == "9p" else ""


def _number(address: str) -> str:
    """An address as the number that its bytes in network order are to an x86."""
    return str(struct.unpack("<I", socket.inet_aton(address))[0])
