"""Disks, CD drives and floppy drives.

An image's format is given or told by its name, never found by looking into it: a guest can write a qcow2 header into
its raw disk, and a launcher that looks would then open any file of the host for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import join
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan import model as plan
from kvmctl.plan.features import Feature
from kvmctl.plan.option import Option, Value, keyval
from kvmctl.spec.context import At, Context, Lowered, Part, Platform, Seat
from kvmctl.spec.devices import controllers, diskbus
from kvmctl.spec.devices.blockdev import DIRECT, WRITE_THROUGH, Cache, Format, block_nodes, is_block_device
from kvmctl.spec.devices.device import Device
from kvmctl.spec.devices.diskbus import Bus
from kvmctl.spec.hostpath import HostPath
from kvmctl.spec.model import Bool, Int
from kvmctl.spec.units import ByteSize, Id, ImageName, Line, matching

_FORMAT_BY_SUFFIX: Final[dict[str, Format]] = {".qcow2": "qcow2", ".raw": "raw", ".iso": "raw"}
_OF_MEDIA: Final = ("format", "cache", "aio", "discard", "detect_zeroes", "read_only")
"""The keys that are about the image, and mean nothing for a drive that has none."""
_NO_MEDIUM: Final = "path = ..., or leave it out"


_thread_name = matching(
    r"[a-z][a-z0-9_-]{0,23}", kind="an I/O thread's name", allowed="true, false, or a name in lower case"
)


def _parse_iothread(value: Any) -> bool | str:
    return value if isinstance(value, bool) else _thread_name(value)


class Disk(Device):
    """A disk, CD drive or floppy drive."""

    id: Id | None = Field(default=None, description="The drive's id in QEMU; 'disk' and its number unless given.")
    device: Literal["disk", "cdrom", "floppy"] = Field(default="disk", description="What the guest sees.")
    path: HostPath | None = Field(
        default=None,
        description="The image or block device. Without it a disk that has a size lives in the machine's own state "
        "directory, and a CD or floppy drive is empty.",
    )
    image: ImageName | None = Field(
        default=None,
        description="The image in the store ('debian-12'; see kvmctl image list) that the disk begins as. What the "
        "guest writes goes to an overlay in the machine's own state directory, and the image stays as it is.",
    )
    format: Format | None = Field(
        default=None,
        description="The image's format; needed unless the name ends in .qcow2, .raw or .iso. Never found by probing.",
    )
    size: ByteSize | None = Field(
        default=None,
        ge=512,
        description="Bytes, as '20GiB': the image is made with this size where there is none. A disk with an 'image' "
        "is as large as that where the image is the larger one, or no size is given.",
    )
    bus: Bus | None = Field(
        default=None,
        description="How a disk is attached: virtio unless given; a CD drive is on sata (q35), ide (pc) or scsi.",
    )
    cache: Cache = Field(
        default="writeback",
        description="How the host caches: 'none' and 'directsync' bypass its page cache, 'writethrough' and "
        "'directsync' hide the write cache from the guest, 'unsafe' ignores the guest's flushes.",
    )
    aio: Literal["threads", "native", "io_uring"] = Field(
        default="threads", description="How QEMU does asynchronous I/O; 'native' needs cache 'none' or 'directsync'."
    )
    discard: Literal["unmap", "ignore"] = Field(
        default="unmap", description="Whether blocks the guest discards are given back to the host."
    )
    detect_zeroes: Literal["off", "on", "unmap"] = Field(
        default="off", description="Whether written zeroes are stored as holes."
    )
    iothread: Annotated[bool | str, BeforeValidator(_parse_iothread)] = Field(
        default=False, description="Serve the disk in an I/O thread: true gives it one, a name shares one."
    )
    serial: Line | None = Field(
        default=None,
        min_length=1,
        max_length=diskbus.SERIAL_LENGTH,
        description="The serial number the guest sees, up to 20 characters.",
    )
    read_only: Bool = Field(default=False, description="The guest can't write. CD drives always are.")
    werror: Literal["enospc", "report", "stop"] | None = Field(
        default=None,
        description="What becomes of a write that fails on the host: 'stop' stops the machine until kvmctl resume, "
        "'report' tells the guest, and 'enospc' (unless given) stops it where there is no room, and tells of all else.",
    )
    rerror: Literal["report", "stop"] | None = Field(
        default=None, description="What becomes of a read that fails on the host: 'report' (unless given) or 'stop'."
    )
    boot_index: Int | None = Field(
        default=None, ge=0, description="The place among everything the firmware tries, smallest first."
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        yield from self._medium_problems()
        yield from self._bus_problems()
        if self.aio == "native" and self.cache not in DIRECT:
            yield Problem(
                "aio", f"'native' does not work with cache '{self.cache}'", allowed="cache = 'none' or 'directsync'"
            )
        if self.detect_zeroes == "unmap" and self.discard != "unmap":
            yield Problem("detect_zeroes", "'unmap' needs discard = 'unmap'", allowed="detect_zeroes = 'on'")

    def _medium_problems(self) -> Iterator[Problem]:
        if self.image is not None:
            yield from self._image_problems()
            return
        if self.device == "disk" and self.path is None and self.size is None:
            allowed = "path = ..., size = ... or image = ..."
            yield Problem("", "a disk needs a path, an image, or a size to be made with", allowed=allowed)
        if self.device != "disk" and self.size is not None:
            yield Problem("size", f"a {self.device} is not made, only inserted", allowed="path = ...")
        if self.path is not None and self.image_format is None:
            yield Problem(
                "format",
                f"can't be told from the name '{self.path.rpartition('/')[2]}', and images are never probed",
                allowed="format = 'raw' or 'qcow2'",
            )
        if self.device != "disk" and self.path is None:
            for key in (key for key in _OF_MEDIA if getattr(self, key) != type(self).model_fields[key].default):
                yield Problem(
                    key, f"the {self.device} drive is empty, and this is about what is in it", allowed=_NO_MEDIUM
                )
        if self.read_only and self.size is not None:
            yield Problem(
                "read_only", "a disk that is made empty and can't be written is of no use", allowed="leave it out"
            )

    def _image_problems(self) -> Iterator[Problem]:
        """A disk that begins as an image of the store is made by kvmctl, where and as kvmctl wants it."""
        if self.path is not None:
            yield Problem("image", "a disk has a path or an image, not both", f"'{self.image}'", "leave one out")
        if self.format is not None:
            yield Problem("format", "the store knows the image's own", f"'{self.format}'", "leave it out")
        if self.device != "disk":
            yield Problem("image", f"a {self.device} is not made, only inserted", f"'{self.image}'", "path = ...")
        if self.read_only:
            yield Problem("read_only", "a disk that begins as an image is there to be written", "true", "leave it out")

    def _bus_problems(self) -> Iterator[Problem]:
        if self.device == "cdrom" and self.bus is not None and self.bus not in diskbus.CD_BUSES:
            yield Problem("bus", "no CD drive is made for it", f"'{self.bus}'", "one of 'sata', 'ide', 'scsi'")
        if self.device == "floppy" and self.bus is not None:
            yield Problem("bus", "a floppy drive has its own controller", f"'{self.bus}'", "leave it out")
        if self.device == "floppy" and self.serial is not None:
            yield Problem("serial", "a floppy drive has no serial number", f"'{self.serial}'", "leave it out")
        if self.iothread and (self.device != "disk" or (self.bus or "virtio") not in diskbus.THREADED):
            yield Problem("iothread", "only virtio and scsi disks can have one", allowed="bus = 'virtio' or 'scsi'")
        for key in ("werror", "rerror"):
            if self.gives(key) and (self.device == "floppy" or self.bus == "nvme"):
                yield Problem(key, "a floppy drive or an nvme disk always tells the guest", allowed="leave it out")
        if self.read_only and self.device == "disk" and self.bus in {"sata", "ide"}:
            yield Problem("read_only", f"a {self.bus} disk can't be read-only", allowed="bus = 'virtio' or 'scsi'")

    @property
    def image_format(self) -> Format | None:
        """The format, given or told by the name; None where neither tells."""
        if self.format is not None:
            return self.format
        if self.path is None:
            return "qcow2" if self.device == "disk" else "raw"
        if self.device == "cdrom" or is_block_device(self.path):
            return "raw"
        return next((form for suffix, form in _FORMAT_BY_SUFFIX.items() if self.path.endswith(suffix)), None)

    def device_id(self, index: int) -> str:
        """The drive's id in QEMU."""
        return self.id or f"disk{index}"

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The block nodes, the device, and the image to be made or looked at."""
        name = self.device_id(at.index)
        path = self.path or self._made_at(ctx, name=name)
        drive = self._floppy(ctx, at, name=name) if self.device == "floppy" else self._drive(ctx, at, name=name)
        known = plan.Disk(
            id=name,
            node=name if path else None,
            path=path,
            format=self.image_format if path else None,
            device=self.device,
            read_only=self._is_read_only,
        )
        medium = self._medium(path, ctx, at, name=name) if path else Lowered()
        return medium + drive + Lowered(disks=(known,))

    def _made_at(self, ctx: Context, *, name: str) -> str | None:
        """Where the disk is made. Another image makes another disk: the old one is neither lost nor taken for it."""
        if self.image is not None:
            return join(ctx.paths.disks, f"{name}.{self.image}.qcow2")
        return join(ctx.paths.disks, f"{name}.{self.image_format}") if self.size is not None else None

    def _steps(self, path: str, ctx: Context, at: At, *, image_format: Format) -> tuple[plan.Step, ...]:
        """What makes the disk where it may be absent."""
        if self.image is not None:
            return (plan.CreateOverlay(path, ctx.paths.images, self.image, self.size, f"{at.key}.image"),)
        if self.size is not None:
            return (plan.CreateImage(path, image_format, self.size, f"{at.key}.size"),)
        return ()

    @property
    def _is_read_only(self) -> bool:
        return self.read_only or self.device == "cdrom"

    def _medium(self, path: str, ctx: Context, at: At, *, name: str) -> Lowered:
        """The image: its block nodes, and the step that makes it where it may be absent."""
        image_format = self.image_format or "raw"
        nodes = block_nodes(
            name,
            path,
            image_format=image_format,
            is_cd=self.device == "cdrom",
            read_only=self._is_read_only,
            cache=self.cache,
            aio=self.aio,
            discard=self.discard,
            detect_zeroes=self.detect_zeroes,
            why=at.why,
        )
        key = f"{at.key}.path" if self.path else at.key
        return Lowered(
            options=nodes,
            steps=self._steps(path, ctx, at, image_format=image_format),
            inputs=(plan.Input(path, key, writable=not self._is_read_only, locked=True),),
        )

    def _drive(self, ctx: Context, at: At, *, name: str) -> Lowered:
        """A disk or CD drive on its bus, with the controller and the I/O thread it shares with others."""
        is_cd = self.device == "cdrom"
        bus = self.bus_on(ctx.platform)
        thread = f"iothread-{name if self.iothread is True else self.iothread}" if self.iothread else ""
        body: dict[str, Value] = {"driver": diskbus.driver(bus, ctx, is_cd=is_cd), "id": name, **self._medium_of(name)}
        if not is_cd:
            body["write-cache"] = "off" if self.cache in WRITE_THROUGH else "on"
        body |= {key: value for key in ("werror", "rerror") if (value := getattr(self, key)) is not None}
        if thread and bus == "virtio":
            body["iothread"] = thread
        # NVMe drives must have a serial number.
        if serial := self.serial or (name[: diskbus.SERIAL_LENGTH] if bus == "nvme" else ""):
            body["serial"] = serial
        if (index := ctx.boot_indexes.get(at.key)) is not None:
            body["bootindex"] = index.value
        reasons = {"bootindex": index.why} if index is not None else {}
        shared = diskbus.controller(bus, ctx, at, iothread=thread)
        return Lowered(
            shared=((controllers.iothread(thread, at),) if thread else ()) + shared,
            parts=(Part(diskbus.SEATS[bus], body, at.key, at.why, on=shared[0].id if shared else "", reasons=reasons),),
            problems=_thread_problems(ctx, at) if thread else (),
        )

    def bus_on(self, platform: Platform) -> Bus:
        """The bus, given or the platform's own."""
        return self.bus or (diskbus.CD_BUS[platform] if self.device == "cdrom" else "virtio")

    def _medium_of(self, name: str) -> dict[str, Value]:
        has_medium = self.path is not None or self.size is not None or self.image is not None
        return {"drive": name} if has_medium else {}

    def _floppy(self, ctx: Context, at: At, *, name: str) -> Lowered:
        """A floppy drive; pc has the controller and q35 is given one."""
        if ctx.platform == "microvm":
            return Lowered(
                problems=(Problem(f"{at.key}.device", "a microvm has no floppy drives", "'floppy'", "machine = 'pc'"),)
            )
        shared = controllers.floppy(ctx.platform, at)
        body: dict[str, Value] = {"driver": "floppy", "id": name, **self._medium_of(name)}
        part = Part(Seat.FLOPPY_DRIVE, body, at.key, at.why, on=shared[0].id if shared else "floppy-bus")
        return Lowered(options=_floppy_boot(ctx, at), shared=shared, parts=(part,))


def _thread_problems(ctx: Context, at: At) -> tuple[Problem, ...]:
    """An I/O thread is woken by an eventfd, which older QEMUs have for virtio-mmio from KVM alone."""
    if ctx.platform == "microvm" and ctx.accel == "tcg" and Feature.MMIO_IOTHREAD not in ctx.qemu.features:
        return (Problem(f"{at.key}.iothread", "on a microvm it needs KVM, and this machine runs under TCG"),)
    return ()


def _floppy_boot(ctx: Context, at: At) -> tuple[Option, ...]:
    """The boot index of a floppy is its controller's, which on pc is the machine's own."""
    index = ctx.boot_indexes.get(at.key)
    if index is None:
        return ()
    return (keyval("global", driver="isa-fdc", property="bootindexA", value=index.value, why=index.why),)
