"""What a verdict is: what became of a machine, and how one can tell. Errors carry it; `kvmctl.runtime.judge` makes it.
Imports nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class VerdictKind(StrEnum):
    """What became of a machine: the first thing that went wrong, as far as it left a trace."""

    QEMU_REFUSED = "qemu-refused"
    """QEMU would not start with its command line."""
    IMAGE_LOCKED = "image-locked"
    NO_KVM = "no-kvm"
    """KVM is not there, or may not be used."""
    NO_HOST_MEMORY = "no-host-memory"
    PORT_TAKEN = "port-taken"
    BAD_IMAGE = "bad-image"
    """An image can't be opened, or is not in the format given."""
    NOTHING_TO_BOOT = "nothing-to-boot"
    """The firmware found nothing to start."""
    BOOT_LOADER = "boot-loader"
    """The boot loader waits at its prompt."""
    NO_ROOT = "no-root-device"
    """The kernel or its initramfs found no root file system."""
    INITRAMFS_SHELL = "initramfs-shell"
    INIT_FAILED = "init-failed"
    """The first process is missing, or has ended."""
    KERNEL_PANIC = "kernel-panic"
    GUEST_OUT_OF_MEMORY = "guest-out-of-memory"
    EMERGENCY_MODE = "emergency-mode"
    """systemd gave up and asks for the root password."""
    SILENT = "silent"
    """The console has not said a word."""
    AGENT_ABSENT = "agent-absent"
    """The guest runs, and its agent never spoke."""
    DISK_ERROR = "disk-error"
    """The machine was stopped because a disk failed or is full."""
    QEMU_HALTED = "qemu-halted"
    """QEMU's process was stopped by a signal."""
    PAUSED = "paused"
    POWERED_OFF = "powered-off"
    REBOOTED = "rebooted"
    """The guest rebooted, and the machine was to end then."""
    QUIT = "quit"
    """QEMU was told to end."""
    QEMU_EXITED = "qemu-exited"
    QEMU_KILLED = "qemu-killed"
    OUT_OF_MEMORY = "out-of-memory"
    """The host's kernel killed QEMU because memory ran out."""
    QEMU_CRASHED = "qemu-crashed"
    HEALTHY = "healthy"
    """The guest's agent has its channel open, and the console tells of nothing bad."""
    UNKNOWN = "unknown"
    """Nothing that is known fits; the evidence is the raw end of the console."""


class Verdict(NamedTuple):
    """What became of a machine, and how one can tell."""

    kind: VerdictKind
    summary: str
    evidence: tuple[str, ...] = ()
    """Lines of the console, of QEMU's log, of its journal or of the host's kernel; control characters spelled out."""
    hint: str = ""

    def __str__(self) -> str:
        return "\n".join([f"{self.kind}: {self.summary}", *(f"  | {line}" for line in self.evidence)])
