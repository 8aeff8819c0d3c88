"""Whether the firmware has switched virtualisation off: the kernel's log and the CPU's own register know.

Linux then hides the CPU's flag (on Intel since 5.6), so the flags alone don't tell it from a CPU without VMX or SVM.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from kvmctl.host.record import FirmwareSwitch

_WORDS: Final = re.compile(r"\b(kvm|vmx|svm)\b.*\b(disabled|not enabled)\b.*\bbios\b", re.IGNORECASE)
"""``VMX (outside TXT) disabled by BIOS``, ``SVM disabled (by BIOS) in MSR_VM_CR``, ``kvm: disabled by bios``, ..."""

_LINES: Final = 20
_RECORD: Final = 8192
"""The kernel's records are shorter (``PRINTKRB_RECORD_MAX``)."""


@dataclass(frozen=True, slots=True)
class _Register:
    """A model-specific register whose bits say that virtualisation is off: those of `mask` equal to `off`."""

    number: int
    mask: int
    off: int


_REGISTERS: Final[Mapping[str, _Register]] = {
    # IA32_FEATURE_CONTROL: locked (bit 0), and VMX outside SMX not allowed (bit 2). Intel SDM volume 4.
    "GenuineIntel": _Register(0x3A, mask=0b101, off=0b001),
    # VM_CR: SVMDIS (bit 4). AMD APM volume 2, 15.30.1.
    "AuthenticAMD": _Register(0xC001_0114, mask=0b10000, off=0b10000),
}


def read_firmware_switch(root: Path, *, vendor: str) -> FirmwareSwitch:
    """What can be known here; mostly that takes root, and for the register the module ``msr``."""
    lines = _read_kernel_log(root / "dev/kmsg")
    told = tuple(line for line in lines or () if _WORDS.search(line))
    return FirmwareSwitch(told[:_LINES], lines is not None, _read_register(root / "dev/cpu/0/msr", vendor))


def _read_kernel_log(path: Path) -> list[str] | None:
    """The messages still in the kernel's buffer; None if this user may not read them (``kernel.dmesg_restrict``)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return list(_records(fd))
    except PermissionError:
        return None
    finally:
        os.close(fd)


def _records(fd: int) -> Iterator[str]:
    """The messages; each read gives one, ``priority,sequence,time,flags;message`` and lines with its device."""
    while True:
        try:
            record = os.read(fd, _RECORD)
        except BrokenPipeError:
            continue  # the oldest was overwritten; the next read goes on with what is oldest now
        except BlockingIOError:
            return  # the end: a read would wait for the next message
        if not record:
            return
        yield record.decode(errors="replace").partition(";")[2].partition("\n")[0]


def _read_register(path: Path, vendor: str) -> Literal["on", "off", "unknown"]:
    register = _REGISTERS.get(vendor)
    if register is None:
        return "unknown"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "unknown"
    try:
        value = int.from_bytes(os.pread(fd, 8, register.number), "little")
    except OSError:
        return "unknown"  # a hypervisor need not give its guests this register
    finally:
        os.close(fd)
    return "off" if value & register.mask == register.off else "on"
