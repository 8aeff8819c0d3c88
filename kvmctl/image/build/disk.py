"""A bootable disk made of a directory: partitions, GRUB for both firmwares, a file system, all in one compressed image.

No loop device and no mount: the file system is made and filled by mke2fs, its strangers' files given back by debugfs,
the EFI partition written by mtools, and the rest put where it belongs.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import ImageError
from kvmctl.image.build import gpt, grub
from kvmctl.image.build.bootstrap import Owner
from kvmctl.image.build.gpt import Partition
from kvmctl.image.build.tools import Tools, run
from kvmctl.image.build.workspace import Workspace

MIB: Final = 1 << 20
MINIMUM_SIZE: Final = 1 << 30

_CORE_AT: Final = gpt.ALIGNMENT
_ESP_AT: Final = 2 * MIB
_ESP_SIZE: Final = 16 * MIB
_ROOT_AT: Final = _ESP_AT + _ESP_SIZE

_FEATURES: Final = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
"""Named one by one: what mke2fs of another day makes by itself, GRUB of this one might not read."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A disk to be: its size in bytes, and the identities by which its parts are found."""

    size: int
    disk_id: uuid.UUID
    root_id: uuid.UUID
    partition_ids: tuple[uuid.UUID, uuid.UUID, uuid.UUID]

    @classmethod
    def fresh(cls, size: int) -> Layout:
        """A disk like no other. Raises ImageError where it is too small for anything."""
        if size < MINIMUM_SIZE or size % MIB:
            raise ImageError(f"an image can't have {size} bytes", hint="Its size is whole MiB, and at least 1GiB.")
        return cls(size, uuid.uuid4(), uuid.uuid4(), (uuid.uuid4(), uuid.uuid4(), uuid.uuid4()))

    @property
    def partitions(self) -> list[Partition]:
        """GRUB for a BIOS, GRUB for UEFI, and last the root, so that it can grow."""
        bios, esp, root = self.partition_ids
        return [
            Partition(gpt.BIOS_BOOT, bios, "bios", _CORE_AT, _ESP_AT - _CORE_AT),
            Partition(gpt.EFI_SYSTEM, esp, "esp", _ESP_AT, _ESP_SIZE),
            Partition(gpt.ROOT_X86_64, root, "root", _ROOT_AT, self.root_size),
        ]

    @property
    def root_size(self) -> int:
        """Bytes; the last MiB is left for the backup of the table."""
        return self.size - _ROOT_AT - gpt.ALIGNMENT


def make_disk(space: Workspace, layout: Layout, *, owners: Sequence[Owner], tools: Tools) -> str:
    """The raw disk with the workspace's ``root`` in it, as a sparse file in the workspace. Raises ImageError."""
    path = space.file("disk.raw")
    _write_ends(path, layout, space=space, tools=tools)
    _fill_esp(path, space=space, tools=tools)
    _make_root(path, layout, root=space.file("root"), tools=tools)
    _give_away(path, owners, space=space, tools=tools)
    return path


def _write_ends(path: str, layout: Layout, *, space: Workspace, tools: Tools) -> None:
    """The table at both ends, and GRUB for a BIOS."""
    finder = space.file("grub-finder.cfg")
    with open(finder, "w", encoding="ascii") as file:
        file.write(grub.finder_config(str(layout.root_id)))
    modules, core = tools.path("usr/lib/grub/i386-pc"), space.file("core.img")
    argv = [tools.path("usr/bin/grub-mkimage"), "--directory", modules, "--format", "i386-pc", "--prefix", "/boot/grub"]
    run([*argv, "--config", finder, "--output", core, *grub.BIOS_MODULES], tools=tools, doing="make GRUB's core image")
    code = grub.boot_code(tools.read("usr/lib/grub/i386-pc/boot.img"), core_at=_CORE_AT)
    table = gpt.make_table(layout.partitions, disk_id=layout.disk_id, disk_size=layout.size, boot_code=code)
    with open(core, "rb") as file:
        placed = grub.place_core(file.read(), core_at=_CORE_AT)
    with open(path, "wb") as file:
        file.truncate(layout.size)
        file.write(table.head)
        file.seek(_CORE_AT)
        file.write(placed)
        file.seek(layout.size - len(table.tail))
        file.write(table.tail)


def _fill_esp(path: str, *, space: Workspace, tools: Tools) -> None:
    """shim, signed by Microsoft for all firmware; GRUB, signed by Debian, which shim trusts; and where the rest is."""

    def mtool(name: str, *arguments: str) -> None:
        argv = [tools.path("usr/bin/mtools"), "-c", name, "-i", f"{path}@@{_ESP_AT}", *arguments]
        run(argv, tools=tools, doing="write the EFI partition")

    mtool(
        "mformat",
        "-T",
        str(_ESP_SIZE // gpt.SECTOR),
        "-h",
        "64",
        "-s",
        "32",
        "-H",
        str(_ESP_AT // gpt.SECTOR),
        "-v",
        "ESP",
        "::",
    )
    mtool("mmd", "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
    mtool("mcopy", tools.path("usr/lib/shim/shimx64.efi.signed"), "::/EFI/BOOT/BOOTX64.EFI")
    mtool("mcopy", tools.path("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"), "::/EFI/BOOT/grubx64.efi")
    mtool("mcopy", space.file("grub-finder.cfg"), "::/EFI/debian/grub.cfg")


def _make_root(path: str, layout: Layout, *, root: str, tools: Tools) -> None:
    """The file system, with what is in `root`: files that are ours on this host are root's in it."""
    options = ["-t", "ext4", "-O", _FEATURES, "-I", "256", "-m", "1", "-L", "root", "-U", str(layout.root_id)]
    where = ["-E", f"offset={_ROOT_AT}", path, f"{layout.root_size // 1024}k"]
    namespace = [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--"]
    hint = "A larger --size may help."
    run(
        [*namespace, "mke2fs", "-q", "-F", *options, "-d", root, *where],
        tools=tools,
        doing="make the file system",
        hint=hint,
    )


def _give_away(path: str, owners: Sequence[Owner], *, space: Workspace, tools: Tools) -> None:
    """Set the owners that files could not be given while this user, who is nobody else, installed them."""
    if not owners:
        return
    script = space.file("owners.debugfs")
    with open(script, "w", encoding="utf-8", errors="surrogateescape") as file:
        for owner in owners:
            quoted = owner.path.replace('"', '""')
            file.writelines(
                f'set_inode_field "{quoted}" {key} {value}\n' for key, value in (("uid", owner.uid), ("gid", owner.gid))
            )
    doing = "set the owners of files"
    said = run(["debugfs", "-w", "-f", script, f"{path}?offset={_ROOT_AT}"], tools=tools, doing=doing).splitlines()
    if len(said) > 1:  # it says its version, and ends with 0 whatever happens
        raise ImageError(f"cannot {doing}", detail="\n".join(said[1:]))
