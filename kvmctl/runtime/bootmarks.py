"""Where the time of a boot went: moments that were seen, the stages between them, and what many boots amount to. Pure.

Moments are seconds since the epoch by the host's clock, and each is somebody's word: of the launcher, of QEMU's events,
of the guest's kernel, whose clock starts with it, which is when the firmware and what loads the kernel were done.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_INIT: Final = re.compile(r"^\[ *(\d+\.\d+)\](?:\[[^\]]*\])? Run \S+ as init process", re.MULTILINE)
_UPTIME_STEP: Final = 0.01
"""Seconds to which ``/proc/uptime`` is cut off."""


class Stage(StrEnum):
    """A part of a boot, in the order they come; each ends where the next one begins."""

    QEMU = "qemu"
    """From the start of QEMU's process until it lets the guest run."""
    FIRMWARE = "firmware"
    """Until the kernel's clock starts: firmware, boot loader, unpacking the kernel. Of a guest that is no Linux, until
    its console's first byte."""
    KERNEL = "kernel"
    """Until the kernel starts the first process, of the initramfs where there is one."""
    INIT = "init"
    """Until the guest agent opens its channel."""
    AGENT = "agent"
    """Until the agent answers for the first time."""
    EXEC = "exec"
    """Until the first command in the guest has ended."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot: the moment it began, and the moments its stages ended, where they were seen."""

    began: float
    ends: Mapping[Stage, float]

    @property
    def stages(self) -> dict[Stage, float]:
        """Seconds of each stage that was seen to end; of one that was not, they are in the next."""
        moments = [self.began, *(self.ends[stage] for stage in Stage if stage in self.ends)]
        seen = [stage for stage in Stage if stage in self.ends]
        return {stage: later - earlier for stage, earlier, later in zip(seen, moments, moments[1:], strict=False)}

    @property
    def total(self) -> float:
        """Seconds from the first moment to the last."""
        return max(self.ends.values(), default=self.began) - self.began


@dataclass(frozen=True, slots=True)
class BootProfile:
    """What several boots of one machine took. `accel` and `qemu_version` say on what."""

    machine: str
    accel: str
    qemu_version: str
    boots: tuple[Boot, ...]

    def seconds(self, stage: Stage) -> list[float]:
        """What `stage` took, in each boot in which it was seen."""
        return [boot.stages[stage] for boot in self.boots if stage in boot.stages]

    @property
    def totals(self) -> list[float]:
        """What each boot took."""
        return [boot.total for boot in self.boots]


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest of `values` that `percent` per cent of them don't exceed (nearest rank); they may not be empty."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def kernel_began(uptime: str, *, asked: float, answered: float) -> float | None:
    """When the guest's kernel began, from its ``/proc/uptime`` as read between two moments; None where it is none."""
    try:
        seconds = float(uptime.split(maxsplit=1)[0])
    except (IndexError, ValueError):
        return None
    # What is cut off is half a step on average.
    return (asked + answered) / 2 - seconds - _UPTIME_STEP / 2


def find_init(kernel_log: str) -> float | None:
    """Seconds on the kernel's clock at which it started the first process; None where its log does not say."""
    match = _INIT.search(kernel_log)
    return float(match[1]) if match else None
