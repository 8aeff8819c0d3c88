"""Disks, CD drives and floppy drives.

An image's format is given or told by its name, never found by looking into it: a guest can write a qcow2 header into
its raw disk, and a launcher that looks would then open any file of the host for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import join
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from kvmctl.errors import Problem
from kvmctl.plan import model as plan
from kvmctl.plan.option import Option, Value, jsonopt, keyval
from kvmctl.spec.context import At, Context, Lowered, Part, Platform, Seat
from kvmctl.spec.devices import controllers
from kvmctl.spec.devices.device import Device
from kvmctl.spec.model import Bool, Int, reject
from kvmctl.spec.units import ByteSize, HostPath, Id, Line

Format: TypeAlias = Literal["raw", "qcow2"]
Bus: TypeAlias = Literal["virtio", "scsi", "sata", "ide", "nvme", "usb"]

_FORMAT_BY_SUFFIX: Final[dict[str, Format]] = {".qcow2": "qcow2", ".raw": "raw", ".iso": "raw"}
_DIRECT: Final = frozenset({"none", "directsync"})
_WRITE_THROUGH: Final = frozenset({"writethrough", "directsync"})
_CD_BUS: Final[dict[Platform, Bus]] = {"q35": "sata", "pc": "ide", "microvm": "scsi"}
_CD_BUSES: Final = frozenset({"sata", "ide", "scsi"})
_SEATS: Final[dict[Bus, Seat]] = {
    "virtio": Seat.DISK,
    "nvme": Seat.DISK,
    "scsi": Seat.SCSI_TARGET,
    "sata": Seat.SATA_PORT,
    "ide": Seat.IDE_PORT,
    "usb": Seat.USB_PORT,
}


def _parse_iothread(value: Any) -> bool | str:
    if isinstance(value, bool | str):
        return value
    raise reject("must be true, false or the name of an I/O thread")


class Disk(Device):
    """A disk, CD drive or floppy drive."""

    id: Id | None = Field(default=None, description="The drive's id in QEMU; 'disk' and its number unless given.")
    device: Literal["disk", "cdrom", "floppy"] = Field(default="disk", description="What the guest sees.")
    path: HostPath | None = Field(
        default=None,
        description="The image or block device. Without it a disk that has a size lives in the machine's own state "
        "directory, and a CD or floppy drive is empty.",
    )
    format: Format | None = Field(
        default=None,
        description="The image's format; needed unless the name ends in .qcow2, .raw or .iso. Never found by probing.",
    )
    size: ByteSize | None = Field(
        default=None, ge=512, description="Bytes, as '20GiB': the image is made with this size where there is none."
    )
    bus: Bus | None = Field(
        default=None,
        description="How a disk is attached: virtio unless given; a CD drive is on sata (q35), ide (pc) or scsi.",
    )
    cache: Literal["writeback", "none", "writethrough", "directsync", "unsafe"] = Field(
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
        default=None, min_length=1, max_length=20, description="The serial number the guest sees, up to 20 characters."
    )
    read_only: Bool = Field(default=False, description="The guest can't write. CD drives always are.")
    boot_index: Int | None = Field(
        default=None, ge=0, description="The place among everything the firmware tries, smallest first."
    )

    def contradictions(self) -> Iterator[Problem]:
        """What does not go together."""
        yield from self._medium_problems()
        yield from self._bus_problems()
        if self.aio == "native" and self.cache not in _DIRECT:
            yield Problem(
                "aio", f"'native' does not work with cache '{self.cache}'", allowed="cache = 'none' or 'directsync'"
            )
        if isinstance(self.iothread, str) and not self.iothread.replace("-", "").replace("_", "").isalnum():
            yield Problem("iothread", "is not a name", repr(self.iothread), "letters, digits, '-' and '_'")

    def _medium_problems(self) -> Iterator[Problem]:
        if self.device == "disk" and self.path is None and self.size is None:
            yield Problem("", "a disk needs a path, or a size to be made with", allowed="path = ... or size = ...")
        if self.device != "disk" and self.size is not None:
            yield Problem("size", f"a {self.device} is not made, only inserted", allowed="path = ...")
        if self.path is not None and self.format is None and self._format is None:
            yield Problem(
                "format",
                f"can't be told from the name '{self.path.rpartition('/')[2]}', and images are never probed",
                allowed="format = 'raw' or 'qcow2'",
            )
        if self.read_only and self.size is not None:
            yield Problem("read_only", "a disk that is made empty and can't be written is of no use")

    def _bus_problems(self) -> Iterator[Problem]:
        if self.device == "cdrom" and self.bus is not None and self.bus not in _CD_BUSES:
            yield Problem("bus", "no CD drive is made for it", f"'{self.bus}'", "one of 'sata', 'ide', 'scsi'")
        if self.device == "floppy" and self.bus is not None:
            yield Problem("bus", "a floppy drive has its own controller", f"'{self.bus}'")
        if self.iothread and (self.device != "disk" or self.bus not in {None, "virtio", "scsi"}):
            yield Problem("iothread", "only virtio and scsi disks can have one")
        if self.read_only and self.device == "disk" and self.bus in {"sata", "ide"}:
            yield Problem(
                "read_only", f"a {self.bus} disk can't be read-only", allowed="bus = 'virtio', 'scsi' or 'usb'"
            )

    @property
    def _format(self) -> Format | None:
        """The format, given or told by the name."""
        if self.format is not None:
            return self.format
        if self.path is None:
            return "qcow2" if self.device == "disk" else "raw"
        if self.device == "cdrom" or _is_block_device(self.path):
            return "raw"
        return next((form for suffix, form in _FORMAT_BY_SUFFIX.items() if self.path.endswith(suffix)), None)

    def name(self, index: int) -> str:
        """The drive's id in QEMU."""
        return self.id or f"disk{index}"

    def bus_on(self, platform: Platform) -> Bus:
        """The bus, given or the platform's own."""
        return self.bus or (_CD_BUS[platform] if self.device == "cdrom" else "virtio")

    def lower(self, ctx: Context, at: At) -> Lowered:
        """The block nodes, the device, and the image to be made or looked at."""
        name = self.name(at.index)
        path = self.path or (join(ctx.paths.disks, f"{name}.{self._format}") if self.size is not None else None)
        part, shared = self._attach(ctx, at, name=name, has_medium=path is not None)
        medium = self._medium(path, at, name=name) if path is not None else Lowered()
        front = Lowered(
            options=self._floppy_boot(ctx, at),
            shared=shared,
            parts=(part,),
            disks=(
                plan.Disk(
                    id=name,
                    node=None if path is None else name,
                    path=path,
                    format=None if path is None else self._format,
                    device=self.device,
                    read_only=self._is_read_only,
                ),
            ),
        )
        return medium + front

    @property
    def _is_read_only(self) -> bool:
        return self.read_only or self.device == "cdrom"

    def _medium(self, path: str, at: At, *, name: str) -> Lowered:
        """The image: its two block nodes, and the step that makes it where it may be absent."""
        made = (
            (plan.CreateImage(path, self._format or "raw", self.size, f"{at.key}.size"),)
            if self.size is not None
            else ()
        )
        return Lowered(
            options=self._nodes(path, at, name=name),
            steps=made,
            inputs=(
                plan.Input(
                    path,
                    f"{at.key}.path" if self.path else at.key,
                    writable=not self._is_read_only,
                    locked=True,
                ),
            ),
        )

    def _nodes(self, path: str, at: At, *, name: str) -> tuple[Option, Option]:
        common: dict[str, Value] = {
            "read-only": self._is_read_only,
            "cache": {"direct": self.cache in _DIRECT, "no-flush": self.cache == "unsafe"},
            "discard": self.discard,
        }
        protocol = "host_device" if _is_block_device(path) else "file"
        storage = {"driver": protocol, "node-name": f"{name}-file", "filename": path, "aio": self.aio, **common}
        image = {
            "driver": self._format,
            "node-name": name,
            "file": f"{name}-file",
            "detect-zeroes": self.detect_zeroes,
            **common,
        }
        return jsonopt("blockdev", storage, why=at.why), jsonopt("blockdev", image, why=at.why)

    def _attach(self, ctx: Context, at: At, *, name: str, has_medium: bool) -> tuple[Part, tuple[Option | Part, ...]]:
        """The device, and the controller and I/O thread it shares with others."""
        body: dict[str, Value] = {"driver": "", "id": name}
        if has_medium:
            body["drive"] = name
        if self.device == "floppy":
            on = "floppy-bus" if ctx.platform == "pc" else "fdc"
            body["driver"] = "floppy"
            return Part(Seat.FLOPPY_DRIVE, body, at.key, at.why, on=on), controllers.floppy(ctx.platform, at)
        bus = self.bus_on(ctx.platform)
        thread = self._thread(name)
        body |= self._front(ctx, at, bus=bus, name=name)
        if thread and bus == "virtio":
            body["iothread"] = thread
        shared = (
            *((controllers.iothread(thread, at),) if thread else ()),
            *_controller(ctx, at, bus=bus, thread=thread),
        )
        return Part(_SEATS[bus], body, at.key, at.why, on=_controller_id(bus, ctx.platform, thread)), shared

    def _front(self, ctx: Context, at: At, *, bus: Bus, name: str) -> dict[str, Value]:
        """The properties of the device that depend on what it is."""
        body: dict[str, Value] = {"driver": self._driver(ctx, bus)}
        if self.device == "disk":
            body["write-cache"] = "off" if self.cache in _WRITE_THROUGH else "on"
        serial = self.serial or (name[:20] if bus == "nvme" else None)
        if serial is not None:
            body["serial"] = serial
        index = ctx.boot_indexes.get(at.key)
        if index is not None:
            body["bootindex"] = index
        return body

    def _driver(self, ctx: Context, bus: Bus) -> str:
        kind = "cd" if self.device == "cdrom" else "hd"
        match bus:
            case "virtio":
                return ctx.virtio("virtio-blk")
            case "scsi":
                return f"scsi-{kind}"
            case "sata" | "ide":
                return f"ide-{kind}"
            case "nvme":
                return "nvme"
            case "usb":
                return "usb-storage"

    def _thread(self, name: str) -> str:
        return (f"iothread-{name}" if self.iothread is True else f"iothread-{self.iothread}") if self.iothread else ""

    def _floppy_boot(self, ctx: Context, at: At) -> tuple[Option, ...]:
        index = ctx.boot_indexes.get(at.key)
        if self.device != "floppy" or index is None:
            return ()
        # The boot index of a floppy belongs to its controller, which on pc is the machine's own.
        return (keyval("global", None, driver="isa-fdc", property="bootindexA", value=index, why=at.why),)


def _is_block_device(path: str) -> bool:
    """Whether `path` is a device by its name, which is all that a spec shows: QEMU opens those with another driver."""
    return path.startswith("/dev/") and not path.startswith("/dev/shm/")  # noqa: S108  # a name, nothing is made there


def _controller(ctx: Context, at: At, *, bus: Bus, thread: str) -> tuple[Part, ...]:
    match bus:
        case "scsi":
            return (controllers.scsi(ctx, at, iothread=thread),)
        case "usb":
            return (controllers.usb(at),)
        case "sata" if ctx.platform == "pc":
            return (controllers.ahci(at),)
        case _:
            return ()


def _controller_id(bus: Bus, platform: Platform, thread: str) -> str:
    match bus:
        case "scsi":
            return controllers.scsi_id(thread)
        case "usb":
            return "usb"
        case "sata" if platform == "pc":
            return "ahci"
        case _:
            return ""
