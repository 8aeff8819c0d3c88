"""The tiny guest: a whole operating system of 4.6 KiB that ships with kvmctl and needs nothing but QEMU.

It boots in 20 to 100 ms from a disk, a network or ``-kernel``, under TCG and KVM, and does on request what guests do:
run, panic, hang, reboot, crash, ignore the power button, answer or mislead the one who asks its agent. Its first
output on COM1 is ::

    KVMCTL-TINY boot=K memk=15999 pm=0600 boots=none initrd=0 cmdline=deaf
    READY

``boot`` is K for ``-kernel`` and D for a disk; ``memk`` the memory in KiB; ``pm`` the port of ACPI's power registers
(0000 on microvm); ``boots`` how often this disk was booted (``none`` where the BIOS has no disk to write: qboot and
microvm); ``initrd`` its size in bytes. After READY it obeys a `Key` typed on COM1 and the `WORDS` of the kernel command
line, prints POWER-BUTTON and OFF when it is switched off, and speaks the guest agent's protocol on COM2
(guest-sync-delimited, guest-sync, guest-ping, guest-info, guest-shutdown; CommandNotFound for the rest).

The source is the assembly beside this file; ``scripts/build-tiny`` assembles it. Imports nothing of kvmctl.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

IMAGE: Final = str(Path(__file__).with_name("tiny.bin"))
"""Path of the guest's bytes: for ``-kernel``, or to be copied to the start of a disk of 1 MiB or more."""

EXIT_STATUS: Final = 33
"""QEMU's exit status after `Key.EXIT`, with ``-device isa-debug-exit`` (iobase 0x501)."""


class Key(StrEnum):
    """What the guest does on a character typed on COM1; any other is echoed as ``<c>``."""

    COUNT = "d"
    """Bump the disk's counter and print `` boots=N``."""
    HANG = "h"
    """Stop for ever with interrupts off: deaf to everything but force."""
    DEAFEN = "n"
    """Ignore the power button (prints DEAF), or obey it again (prints HEARING)."""
    PANIC = "p"
    """Print PANIC, report one to ``-device pvpanic`` and go on."""
    POWER_OFF = "q"
    """Power off by ACPI."""
    RESET = "r"
    """Reboot."""
    TRIPLE_FAULT = "t"
    """Crash so that the CPU resets."""
    UPTIME = "u"
    """Print ``uptime=N``: its age in ticks of 10 ms, which stand still while the machine is paused."""
    WRITE = "w"
    """Print ``line=1``, ``line=2`` and so on until the next character."""
    EXIT = "x"
    """Make QEMU exit with `EXIT_STATUS`, where the machine has the isa-debug-exit device."""


WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "deaf": "ignore the power button",
        "exit=N": "make QEMU exit with status 2 * N + 1 (N up to 127)",
        "hang": "stop for ever",
        "off": "power off",
        "panic": "report a panic, go on",
        "reset": "reboot, for ever if the machine does",
        "triple-fault": "crash, for ever if the machine resets",
        "write": "print numbered lines until a character is typed",
        "agent=silent": "never answer on COM2",
        "agent=garbage": "answer what is no JSON",
        "agent=flood": "answer the first request with a line that never ends",
    }
)
"""Words of the kernel command line and what they make the guest do once it said READY; it ignores all others."""
