"""What is in the small guest: busybox, kernel modules, the guest agent with its libraries, and what is our own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename

from kvmctl.errors import AptError
from kvmctl.guest import resident
from kvmctl.image.initramfs import modules
from kvmctl.image.initramfs.cpio import Archive
from kvmctl.image.initramfs.elf import interpreter, needed_libraries
from kvmctl.image.kernel.package import PackagedKernel, read_kernel
from kvmctl.image.packages.apt import Apt
from kvmctl.image.packages.deb import Member
from kvmctl.image.packages.sources import KERNELS, Sources

FILES = Path(__file__).parent / "files"

GENERIC_KERNELS = ("linux-image-amd64", "linux-image-generic")
"""Packages that stand for the newest kernel for all hardware: Debian's, Ubuntu's."""
BUSYBOX = "busybox-static"
AGENT = "qemu-guest-agent"

AT_BOOT = (
    "virtio_pci", "virtio_console", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng", "button", "evdev",
)  # fmt: skip
"""Loaded at boot, whether there is such hardware or not: it may be plugged in later, and no udev waits for it."""
ON_REQUEST = (
    "virtio_mmio", "virtio_scsi", "virtio_mem", "qemu_fw_cfg", "pvpanic_pci", "pvpanic_mmio", "i6300esb", "iTCO_wdt",
    "virtio_input", "psmouse", "uhci_hcd", "ehci_pci", "xhci_pci", "usb_storage", "uas", "usbhid",
    "nvme", "ahci", "ata_piix", "sd_mod", "sr_mod", "floppy", "e1000", "e1000e", "8139cp", "af_packet",
    "vmw_vsock_virtio_transport", "virtiofs", "9p", "9pnet_virtio", "overlay", "loop",
    "ext4", "isofs", "vfat", "nls_cp437", "nls_iso8859_1", "nls_ascii", "squashfs", "erofs", "tpm_tis", "tpm_crb",
)  # fmt: skip
"""In the guest for ``modprobe``, and loaded where the hardware asks for it. Not every kernel has every one."""


@dataclass(frozen=True)
class Guest:
    """The two files that QEMU boots, the kernel's modules as files, and the packages it was all made of."""

    kernel: bytes
    initramfs: bytes
    modules: dict[str, bytes]
    packages: dict[str, str]


def build(apt: Apt, kernels: Sequence[str] = KERNELS) -> Guest:
    """The guest, from the packages that `apt` has, with the first of `kernels` to be had. Raises AptError."""
    if apt.find_candidate([BUSYBOX]) is None or apt.find_candidate(kernels) is None:
        apt.refresh()
    sources = Sources(apt, kernels)
    kernel = read_kernel(sources, sources.kernel_packages(), wanted=[*AT_BOOT, *ON_REQUEST])
    archive = Archive()
    archive.add_character_device("dev/console", mode=0o600, number=(5, 1))
    archive.add_file("bin/busybox", sources.find_file(BUSYBOX, "bin/busybox"), mode=0o755)
    add_agent(archive, sources)
    add_modules(archive, kernel)
    add_system(archive)
    files = {f"{module.name}.ko": module.data for module in kernel.modules}
    files["modules.builtin"] = kernel.builtin.encode()
    return Guest(kernel.image, archive.finish(), files, sources.used)


def add_modules(archive: Archive, kernel: PackagedKernel) -> None:
    """The modules, flat in one directory, and the files by which modprobe finds them."""
    directory = f"lib/modules/{kernel.version}"
    for module in kernel.modules:
        archive.add_file(f"{directory}/{module.name}.ko", module.data)
    dependencies = modules.dependency_index(kernel.modules, lambda name: f"{name}.ko")
    archive.add_file(f"{directory}/modules.dep", dependencies.encode())
    archive.add_file(f"{directory}/modules.alias", modules.alias_index(kernel.modules).encode())
    present = {module.name for module in kernel.modules}
    archive.add_file("etc/modules", "".join(f"{name}\n" for name in AT_BOOT if name in present).encode())


def add_agent(archive: Archive, sources: Sources) -> None:
    """The guest agent and the libraries it is linked with, from their packages. Raises AptError."""
    agent = sources.find_file(AGENT, "usr/sbin/qemu-ga")
    archive.add_file("usr/sbin/qemu-ga", agent, mode=0o755)
    linker = interpreter(agent)
    libraries = find_libraries([*needed_libraries(agent), basename(linker)], sources.libraries(AGENT))
    for name, data in libraries.items():
        is_linker = name == basename(linker)
        archive.add_file(linker if is_linker else f"lib/x86_64-linux-gnu/{name}", data, mode=0o755)


def find_libraries(needed: Sequence[str], members: Iterable[Member]) -> dict[str, bytes]:
    """The libraries `needed` and those that they need in turn, by name. Raises AptError for one that is nowhere."""
    offered: dict[str, Member] = {}
    source = iter(members)

    def find(name: str) -> bytes:
        while name not in offered:
            member = next(source, None)
            if member is None:
                raise AptError(f"no package has the library {name!r}")
            offered.setdefault(basename(member.name), member)
        member = offered[name]
        return find(basename(member.target)) if member.target else member.data

    found: dict[str, bytes] = {}
    queue = list(needed)
    for name in queue:
        if name not in found:
            found[name] = find(name)
            queue += needed_libraries(found[name])
    return dict(sorted(found.items()))


def add_system(archive: Archive) -> None:
    """The scripts, kvmctl's own program, and the few files that programs expect."""
    for name, place in {
        "init": "init",
        "udhcpc": "etc/udhcpc",
        "power-button": "etc/acpi/PWRF/00000080",
        "shutdown": "sbin/shutdown",
    }.items():
        archive.add_file(place, (FILES / name).read_bytes(), mode=0o755)
    archive.add_file("usr/lib/kvmctl/resident", Path(resident.PROGRAM).read_bytes(), mode=0o755)
    for directory in ("dev", "mnt", "proc", "root", "run", "sys", "var/log"):
        archive.add_directory(directory)
    for directory in ("tmp", "var/tmp"):
        archive.add_directory(directory, mode=0o1777)
    archive.add_link("var/run", "/run")
    archive.add_file("etc/hostname", b"small-linux\n")
    archive.add_file("etc/hosts", b"127.0.0.1 localhost small-linux\n::1 localhost\n")
    archive.add_file("etc/passwd", b"root::0:0:root:/root:/bin/sh\nnobody:*:65534:65534:nobody:/:/bin/false\n")
    archive.add_file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
