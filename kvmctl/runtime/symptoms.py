"""What consoles say of guests that do not come up, understood. Pure.

The patterns are those of SeaBIOS, iPXE, OVMF, GRUB, Linux, initramfs-tools, dracut and systemd; tests hold them against
consoles that were recorded (scripts/record-consoles).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kvmctl.verdict import Verdict, VerdictKind

LINES_SHOWN: Final = 8
"""Lines of evidence, at most."""

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_c=>78])")
_BACKSPACES: Final = re.compile(r"(?:\x08 ?)+")
_CONTROL: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) != "\n"},
    ord("\t"): " ",
}

_BOOTS: Final = re.compile(r"SeaBIOS \(version|(?:^BdsDxe: .*\n)+|Linux version \d|Welcome to GRUB", re.MULTILINE)
"""A machine that starts: what was said before is of another boot."""
_GOES_ON: Final = re.compile(r"^\[ *\d+\.\d{6}\] |^.*\blogin: *$|Linux version \d|EFI stub:", re.MULTILINE)
"""What a kernel says, and what comes after it."""
_RECOVERED: Final = re.compile(r"^\S+ login: *$|Reached target .*(?:Multi-User|Graphical)|GUEST-READY", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Symptom:
    kind: VerdictKind
    summary: str
    pattern: re.Pattern[str]
    hint: str
    also: str = ""
    """More lines that are evidence, where there are any."""
    before_kernel: bool = False
    """It counts only while no kernel has started after it."""


def _symptom(
    kind: VerdictKind, summary: str, pattern: str, *, hint: str, also: str = "", before_kernel: bool = False
) -> _Symptom:
    return _Symptom(kind, summary, re.compile(pattern, re.MULTILINE), hint, also, before_kernel)


_SYMPTOMS: Final = (
    _symptom(
        VerdictKind.GUEST_OUT_OF_MEMORY,
        "the guest has too little memory to start",
        r"deadlocked on memory|not syncing: Out of memory|Initramfs unpacking failed: write error|"
        r"Out of memory and no killable processes",
        hint="Give it more: memory = ... in the spec.",
        also=r"Killed process|Kernel panic",
    ),
    _symptom(
        VerdictKind.NO_ROOT,
        "there is no root file system where the kernel was told to look",
        r"VFS: Unable to mount root fs|ALERT! .* does not exist\.\s+Dropping to a shell|"
        r"Failed to mount \S+ as root file system|Warning: \S+ does not exist$|Gave up waiting for root",
        hint="Look at root= on the kernel's command line, and whether its initrd has the disk's driver and is intact.",
        also=r"Cannot open root device|Can't open blockdev|mount: .*(?:failed|can't)|unpacking failed|"
        r"^Kernel panic|Gave up waiting",
    ),
    _symptom(
        VerdictKind.INIT_FAILED,
        "the first process is missing or has ended",
        r"No working init found|Attempted to kill init|No init found\. Try passing init=|"
        r"Requested init \S+ failed|Failed to execute \S*init|\[!!!!!!\]|Freezing execution",
        hint="Look at init= or rdinit= on the kernel's command line, and at what stands there in the guest.",
        also=r"doesn't have requested|exitcode=|Run .* as init process",
    ),
    _symptom(
        VerdictKind.KERNEL_PANIC,
        "the guest's kernel panicked",
        r"Kernel panic - not syncing",
        hint="",
        also=r"BUG: |Oops: |sysrq: |RIP: 0010:|NMI received",
    ),
    _symptom(
        VerdictKind.EMERGENCY_MODE,
        "systemd gave up and went to emergency mode",
        r"You are in (?:emergency|rescue) mode|the root account is locked|Reached target.*Emergency Mode|"
        r"Press Enter for maintenance",
        hint="Look for the units that failed: /etc/fstab often names a disk that is not there.",
        also=r"\[FAILED\]|\[DEPEND\]|\[ TIME \]|Dependency failed|Timed out waiting",
    ),
    _symptom(
        VerdictKind.INITRAMFS_SHELL,
        "the initramfs stopped at its own shell",
        r"^\(initramfs\) *\Z|Entering emergency mode\. Exit the shell to continue|^dracut:/#",
        hint="It could not do something that it has to do before the root file system is there.",
        also=r"ALERT!|[Ff]ailed|dracut-initqueue",
    ),
    _symptom(
        VerdictKind.BOOT_LOADER,
        "the boot loader waits at its prompt",
        r"^grub(?: rescue)?> *\Z|Entering rescue mode|Press any key to (?:continue|exit)\.\.\.\s*\Z",
        hint="GRUB did not find its configuration, or what that names: look at /boot on the disk.",
        also=r"^error: |Minimal BASH-like",
        before_kernel=True,
    ),
    _symptom(
        VerdictKind.NOTHING_TO_BOOT,
        "the firmware found nothing to start",
        r"No bootable device|BdsDxe: No bootable option|UEFI Interactive Shell|^Shell> *\Z",
        hint="Give the machine a disk with a system on it, a kernel (boot.kernel), or another boot.order.",
        also=r"Boot failed:|BdsDxe: failed|Nothing to boot|No more network devices|No configuration methods|ipxe\.org/",
        before_kernel=True,
    ),
)


def read_symptom(console: str) -> Verdict | None:
    """What the text of a console, made `plain` before, says is wrong; None where it says nothing of the kind.

    What was said since the machine last started counts; where that has nothing to tell yet, what was said before it.
    """
    starts = [match.start() for match in _BOOTS.finditer(console)]
    latest = console[starts[-1] :] if starts else console
    found = _diagnose(latest)
    if found is None and _RECOVERED.search(latest) is None:
        found = _diagnose(console)
    return found


def _diagnose(text: str) -> Verdict | None:
    for symptom in _SYMPTOMS:
        matches = list(symptom.pattern.finditer(text))
        if matches and not _is_over(symptom, text[matches[-1].end() :]):
            evidence = tuple(_evidence(symptom, text))
            return Verdict(symptom.kind, symptom.summary, evidence, symptom.hint)
    return None


def _is_over(symptom: _Symptom, later: str) -> bool:
    """Whether the guest went on after it, as `later` tells."""
    return bool(_RECOVERED.search(later) or (symptom.before_kernel and _GOES_ON.search(later)))


def _evidence(symptom: _Symptom, text: str) -> Iterator[str]:
    """The lines that match, each once, the last ones where there are many."""
    wanted = re.compile(f"{symptom.pattern.pattern}|{symptom.also}" if symptom.also else symptom.pattern.pattern)
    lines = [line.strip() for line in text.splitlines() if wanted.search(line) and "---[ end " not in line]
    last = text.rstrip("\n").rpartition("\n")[2].strip()  # a prompt, which is what matches at the very end only
    if last and symptom.pattern.search(last) and last not in lines and "---[ end " not in last:
        lines.append(last)
    yield from list(dict.fromkeys(lines))[-LINES_SHOWN:]


def plain(text: str) -> str:
    """`text` without what moves a terminal's cursor, and with other control characters spelled out."""
    return _ESCAPES.sub("", _BACKSPACES.sub("", text.replace("\r", ""))).translate(_CONTROL)


def last_lines(text: str, *, count: int = LINES_SHOWN) -> tuple[str, ...]:
    """The end of a text that `plain` has seen to, without its empty lines."""
    return tuple(line.rstrip() for line in text.splitlines() if line.strip())[-count:]
