"""Faults of a disk: QEMU's blkdebug filter slipped between a drive and its image, and a limit on the drive's I/O.

Nothing of it is there until it is asked for: a drive's image can be exchanged while the guest runs (``qom-set`` of its
``drive``, from QEMU 6.1), and the filter passes on what it does not fail. Nothing is remembered either: what a drive
stands on now, QEMU says itself.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from kvmctl.errors import KvmctlError
from kvmctl.plan.model import Disk
from kvmctl.runtime.monitor import Monitor

ERRORS: Final = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
"""What a request fails with: the medium is broken, or the host has no room."""
REQUESTS: Final = ("read", "write", "flush", "discard", "write-zeroes")
"""The kinds of requests that a drive makes (QEMU's ``BlkdebugIOType``)."""

_SECTOR: Final = 512
_LIMITS: Final = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")


@dataclass(frozen=True, slots=True)
class Seat:
    """A drive as the block layer knows it: the QOM path of the device that has the image, and the node it has now."""

    qom_path: str
    node: str


async def find_seat(monitor: Monitor, disk: Disk) -> Seat:
    """Where the drive `disk` is in QEMU. Raises KvmctlError where it has no medium."""
    found = choose_seat(await monitor.execute("query-block"), device=disk.id)
    if found is None or disk.node is None:
        raise KvmctlError(f"the drive {disk.id!r} is empty, and nothing of it can fail")
    return found


def choose_seat(drives: Sequence[dict[str, Any]], *, device: str) -> Seat | None:
    """The drive `device` in the reply to ``query-block``.

    A virtio disk is inside its transport, and a USB stick is a SCSI disk inside a bridge, where both are listed: the
    inner one has the image.
    """
    inside = f"/machine/peripheral/{device}/"
    seats = [
        Seat(drive["qdev"] if "/" in drive["qdev"] else inside.rstrip("/"), drive["inserted"]["node-name"])
        for drive in drives
        if "inserted" in drive and (drive.get("qdev", "") == device or drive.get("qdev", "").startswith(inside))
    ]
    return max(seats, key=lambda seat: len(seat.qom_path), default=None)


async def fail(
    monitor: Monitor,
    disk: Disk,
    *,
    error: int,
    on: Sequence[str],
    offset: int | None,
    once: bool,
) -> None:
    """Let requests of the kinds `on` fail; with `offset` those that touch the sector at that byte of the disk."""
    seat = await find_seat(monitor, disk)
    spare = next(name for name in (f"{disk.id}-fault0", f"{disk.id}-fault1") if name != seat.node)
    rules = [error_rule(kind, error=error, offset=offset, once=once) for kind in on]
    filtered = {"driver": "blkdebug", "node-name": spare, "image": disk.node, "inject-error": rules}
    await monitor.execute("blockdev-add", filtered)
    await _exchange(monitor, disk, seat, node=spare)


def error_rule(kind: str, *, error: int, offset: int | None, once: bool) -> dict[str, Any]:
    """A rule of blkdebug (QEMU, docs/devel/testing/blkdebug.rst): one that holds from the start and for good."""
    rule: dict[str, Any] = {"event": "none", "iotype": kind, "errno": error, "once": once}
    return rule if offset is None else {**rule, "sector": offset // _SECTOR}


async def limit(monitor: Monitor, disk: Disk, *, bytes_per_second: int, operations_per_second: int) -> None:
    """Let the drive do no more than that; 0 is no limit."""
    # Not the throttle filter: QEMU 7.2 crashes when one is made over the image of a drive with an I/O thread.
    seat = await find_seat(monitor, disk)
    limits = {**dict.fromkeys(_LIMITS, 0), "bps": bytes_per_second, "iops": operations_per_second}
    await monitor.execute("block_set_io_throttle", {"id": seat.qom_path, **limits})


async def mend(monitor: Monitor, disk: Disk) -> None:
    """Give the drive its own image again, without a limit."""
    await limit(monitor, disk, bytes_per_second=0, operations_per_second=0)
    seat = await find_seat(monitor, disk)
    if seat.node != disk.node and disk.node is not None:
        await _exchange(monitor, disk, seat, node=disk.node)


async def _exchange(monitor: Monitor, disk: Disk, seat: Seat, *, node: str) -> None:
    """Put `node` in place of what the drive stands on, which goes if it was a filter of ours."""
    await monitor.execute("qom-set", {"path": seat.qom_path, "property": "drive", "value": node})
    if seat.node != disk.node:
        await monitor.execute("blockdev-del", {"node-name": seat.node})
