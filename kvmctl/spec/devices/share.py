"""Shared directories: a directory of the host as a file system of the guest, by virtiofs or by 9p.

Read-only is enforced on the host's side of both: QEMU's 9p server refuses to write, and virtiofsd sees the directory
by way of mounts that can't be written. What the guest mounts it as is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import normpath
from typing import Annotated, Any, Final, Literal, TypeAlias, assert_never

from pydantic import BeforeValidator, Field, WithJsonSchema

from kvmctl.errors import Problem
from kvmctl.plan.facts import HostFacts, QemuFacts
from kvmctl.plan.option import Fd, Option, Value, keyvals
from kvmctl.plan.share import InputDirectory, SharedDirectory
from kvmctl.plan.virtiofsd import PACKAGES, Cache, virtiofsd_helper
from kvmctl.spec.context import At, Context, Lowered, Part, Seat
from kvmctl.spec.devices.device import Device
from kvmctl.spec.hostpath import HostPath
from kvmctl.spec.model import Bool, reject
from kvmctl.spec.units import has_control_characters, matching, string

Driver: TypeAlias = Literal["virtiofs", "9p"]

TAG_MAX: Final[dict[Driver, int]] = {"virtiofs": 36, "9p": 31}
"""Bytes of a tag: ``struct virtio_fs_config``, and QEMU's ``MAX_TAG_LEN`` less the zero (hw/9pfs/9p.h)."""
MOUNTS: Final = "opt/org.kvmctl/mounts"
"""Where in fw_cfg a guest finds a line of fstab for each share it is to mount (QEMU, docs/specs/fw_cfg.rst)."""
_TAG: Final = r"[A-Za-z0-9_./-]+"
_9P_CACHES: Final[dict[Cache, str]] = {"auto": "mmap", "none": "none", "always": "loose"}
"""``mmap`` keeps nothing but what is mapped, which ``none`` can't map for writing (Linux, filesystems/9p.rst)."""
_9P_MESSAGE: Final = 512_000
"""Bytes of a message: the most that virtio's transport takes, and several times as fast as the kernel's own choice."""


def _parse_mount(value: Any) -> str:
    path = string(value)
    if not path.startswith("/") or has_control_characters(path) or ".." in path.split("/"):
        raise reject("is no place in the guest", allowed="an absolute path without '..', like '/mnt/src'")
    if not normpath(path).strip("/"):
        raise reject("is where the guest's own root is", allowed="a path below it, like '/mnt/src'")
    return "/" + normpath(path).strip("/")


class Share(Device):
    """A directory of the host that the guest can mount."""

    path: HostPath = Field(description="The directory on the host, with what is mounted below it.")
    tag: (
        Annotated[
            str,
            BeforeValidator(matching(_TAG, kind="a tag", allowed="letters, digits, '_', '.', '/' and '-'")),
            WithJsonSchema({"type": "string", "pattern": f"^{_TAG}$"}),
        ]
        | None
    ) = Field(
        default=None,
        description="What the guest mounts it by, at most 36 characters (9p: 31); 'share' and its number unless given.",
    )
    mount: Annotated[str, BeforeValidator(_parse_mount)] | None = Field(
        default=None,
        description="Where guests that kvmctl prepares mount it by themselves; unless given, they leave that to you.",
    )
    read_only: Bool = Field(
        default=False, description="The guest can't write, whatever it does; enforced on the host's side."
    )
    driver: Literal["auto", "virtiofs", "9p"] = Field(
        default="auto",
        description="'virtiofs' needs a virtiofsd on the host and memory it can map, '9p' needs neither but a guest "
        "kernel that has it (kernels for clouds often don't); 'auto' takes virtiofs where it can.",
    )
    cache: Cache = Field(
        default="auto",
        description="How long the guest may believe what it has read: a moment ('auto'), not at all ('none'), or for "
        "good ('always', for what nobody else changes).",
    )
    submounts: Bool = Field(
        default=True,
        description="With virtiofs, tell the guest what is mounted below the directory, so that files of different "
        "file systems are never taken for one. false where the guest puts an overlay on it, which can't have that.",
    )
    security_model: Literal["none", "mapped-xattr"] | None = Field(
        default=None,
        description="With 9p, where owners and modes that the guest sets go: to the files as far as you may ('none', "
        "unless given), or to extended attributes that only guests read ('mapped-xattr').",
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        if self.security_model is not None and self.driver != "9p":
            yield Problem("security_model", "belongs to 9p", f"'{self.security_model}'", "driver = '9p'")

    def tag_at(self, index: int) -> str:
        """What the guest mounts it by."""
        return self.tag or f"share{index}"

    def driver_on(self, host: HostFacts, qemu: QemuFacts, *, private_by: str) -> Driver:
        """What it is shared by here; `private_by` is the key that keeps the memory from being mapped by others."""
        if self.driver != "auto":
            return self.driver
        has_device = "vhost-user-fs-device" in qemu.devices
        return "virtiofs" if host.virtiofsd.works and has_device and not private_by else "9p"

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The device, and what serves it."""
        driver = self.driver_on(ctx.host, ctx.qemu, private_by=ctx.private_by)
        common = Lowered(
            inputs=(InputDirectory(self.path, f"{at.key}.path"),),
            shares=(
                SharedDirectory(
                    f"share{at.index}", self.path, self.tag_at(at.index), driver, self.mount, read_only=self.read_only
                ),
            ),
            problems=tuple(self._tag_problems(driver, at)),
            options=tuple(self._told(driver, at)),
        )
        match driver:
            case "virtiofs":
                return common + self._virtiofs(ctx, at)
            case "9p":
                return common + self._9p(ctx, at)
            case _:
                assert_never(driver)

    def _told(self, driver: Driver, at: At) -> Iterator[Option]:
        """What a guest needs to mount it, where any guest can read it."""
        mount = _guest_mount(self, at.index, driver)
        if mount is not None:
            name = f"{MOUNTS}/share{at.index}"
            yield keyvals("fw_cfg", None, {"name": name, "string": mount.fstab}, why=f"{at.key}.mount")

    def _tag_problems(self, driver: Driver, at: At) -> Iterator[Problem]:
        tag, most = self.tag_at(at.index), TAG_MAX[driver]
        if len(tag) > most:
            yield Problem(
                f"{at.key}.tag", f"has {len(tag)} characters, and {driver} takes {most}", f"'{tag}'", "a shorter one"
            )

    def _virtiofs(self, ctx: Context, at: At) -> Lowered:
        if problems := tuple(self._virtiofs_problems(ctx, at)):
            return Lowered(problems=problems)
        name = f"share{at.index}"
        helper = virtiofsd_helper(
            ctx.host.virtiofsd,
            name=name,
            path=self.path,
            read_only=self.read_only,
            cache=self.cache,
            submounts=self.submounts,
            paths=ctx.paths,
            key=at.key,
        )
        body: dict[str, Value] = {"driver": ctx.virtio("vhost-user-fs"), "id": name, "chardev": name}
        body["tag"] = self.tag_at(at.index)
        return Lowered(
            options=(keyvals("chardev", "socket", {"id": name, "fd": Fd(helper.fd)}, why=at.why),),
            parts=(Part(Seat.SHARE, body, at.key, at.why),),
            helpers=(helper,),
        )

    def _virtiofs_problems(self, ctx: Context, at: At) -> Iterator[Problem]:
        if not ctx.host.virtiofsd.works:
            yield Problem(f"{at.key}.driver", ctx.host.virtiofsd.reason, "'virtiofs'", f"{PACKAGES}; or driver = '9p'")
        if ctx.private_by:
            message = f"virtiofsd has to map the guest's memory, which {ctx.private_by} keeps private"
            yield Problem(f"{at.key}.driver", message, "'virtiofs'", "memory.source = 'memfd', or driver = '9p'")

    def _9p(self, ctx: Context, at: At) -> Lowered:
        name = f"share{at.index}"
        body: dict[str, Value] = {"driver": ctx.virtio("virtio-9p"), "id": name, "fsdev": name}
        body["mount_tag"] = self.tag_at(at.index)
        return Lowered(options=(self._fsdev(name, at),), parts=(Part(Seat.SHARE, body, at.key, at.why),))

    def _fsdev(self, name: str, at: At) -> Option:
        # Remapped, or two files of different file systems with one inode number would be the same file.
        body: dict[str, Value] = {"id": name, "path": self.path, "security_model": self.security_model or "none"}
        body |= {"multidevs": "remap", "readonly": self.read_only}
        return keyvals("fsdev", "local", body, why=at.why)


@dataclass(frozen=True, slots=True)
class GuestMount:
    """A mount that a guest is to make of a share."""

    tag: str
    fstype: Driver
    directory: str
    options: tuple[str, ...]
    read_only: bool

    @property
    def fstab(self) -> str:
        """Its line in the guest's ``/etc/fstab``; a guest without the driver boots all the same."""
        options = ",".join((*self.options, "nofail"))
        return f"{_fstab_word(self.tag)} {_fstab_word(self.directory)} {self.fstype} {options} 0 0"


def guest_mounts(shares: Sequence[Share], ctx: Context) -> tuple[GuestMount, ...]:
    """What a guest that is prepared by us is to mount, of the shares that say where."""
    drivers = [share.driver_on(ctx.host, ctx.qemu, private_by=ctx.private_by) for share in shares]
    mounts = (_guest_mount(share, index, drivers[index]) for index, share in enumerate(shares))
    return tuple(mount for mount in mounts if mount is not None)


def _guest_mount(share: Share, index: int, driver: Driver) -> GuestMount | None:
    if share.mount is None:
        return None
    options = ["ro" if share.read_only else "rw"]
    if driver == "9p":
        options += ("trans=virtio", "version=9p2000.L", f"msize={_9P_MESSAGE}", f"cache={_9P_CACHES[share.cache]}")
    return GuestMount(share.tag_at(index), driver, share.mount, tuple(options), share.read_only)


def mapped_for(shares: Sequence[Share], host: HostFacts, qemu: QemuFacts, *, private_by: str) -> str:
    """The key of the first share whose server maps the guest's memory; empty where none does."""
    for index, share in enumerate(shares):
        if share.driver_on(host, qemu, private_by=private_by) == "virtiofs":
            return f"shares[{index}]"
    return ""


def twins(shares: Sequence[Share]) -> Iterator[Problem]:
    """Tags and places in the guest that two shares have."""
    for field, found in (
        ("tag", {index: share.tag_at(index) for index, share in enumerate(shares)}),
        ("mount", {index: share.mount for index, share in enumerate(shares) if share.mount}),
    ):
        first: dict[str, int] = {}
        for index, name in found.items():
            if name in first:
                yield Problem(
                    f"shares[{index}].{field}", f"shares[{first[name]}] has it too", f"'{name}'", "another one"
                )
            first.setdefault(name, index)


def _fstab_word(word: str) -> str:
    """`word` as fstab(5) has it: white space would end it, and the backslash begins what stands for that."""
    return re.sub(r"[\s\\#]", lambda match: f"\\{ord(match[0]):03o}", word)
