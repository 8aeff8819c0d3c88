"""What is known of the machines of a test that failed: as text for its report, and as files to be kept."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from shlex import join
from typing import Final

from kvmctl import files
from kvmctl.errors import KvmctlError
from kvmctl.plan.shell import readable
from kvmctl.runtime import history, journal
from kvmctl.runtime.events import ExitReason, derive
from kvmctl.runtime.vm import Vm

_CONSOLE_LINES: Final = 40
_JOURNAL_LINES: Final = 15
_TAIL: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one machine, in the order in which one wants to know it."""

    name: str
    sections: Mapping[str, str]


def verdict(error: BaseException | None) -> str:
    """What went wrong, in the error's own words; nothing where it is not of kvmctl."""
    return f"{type(error).__name__}: {error}" if isinstance(error, KvmctlError) else ""


async def gather(vm: Vm, *, directory: str = "") -> Evidence:
    """What is known of the machine; kept under `directory`, where one is given. Never raises KvmctlError."""
    sections = {
        "state": _state(vm),
        "verdict": _verdict(vm),
        "console, its end": _end(vm.console_text(limit=_TAIL), _CONSOLE_LINES) if vm.has_console_log else "",
        "journal, its end": _end(files.read_tail(vm.paths.journal, limit=_TAIL), _JOURNAL_LINES),
        "QEMU's log": _end(files.read_tail(vm.paths.qemu_log, limit=_TAIL), _CONSOLE_LINES),
        "plan": "\n".join([vm.plan.qemu, *(f"  {join(words)}" for words, _ in readable(vm.plan))]),
    }
    if directory:
        place = os.path.join(directory, vm.name)
        with suppress(KvmctlError, OSError):
            os.makedirs(place, exist_ok=True)
            sections["kept in"] = place
            _keep(vm, place, {"state.txt": sections["state"], "verdict.txt": sections["verdict"]})
            await _picture(vm, place)
    return Evidence(vm.name, {title: text for title, text in sections.items() if text})


def _verdict(vm: Vm) -> str:
    with suppress(KvmctlError):
        return str(vm.verdict())
    return ""


def _state(vm: Vm) -> str:
    if vm.is_alive:
        return f"{derive(journal.read_events(vm.paths)).state}, process {vm.pid}"
    with suppress(KvmctlError):
        found = history.find_exit(vm.paths)
        reason = found.reason.value if isinstance(found.reason, ExitReason) else str(found.reason)
        return f"ended: {reason}" + (f" ({found.detail})" if found.detail else "")
    return "ended"


def _keep(vm: Vm, place: str, texts: Mapping[str, str]) -> None:
    for path in (vm.paths.console_log, vm.paths.journal, vm.paths.qemu_log, vm.paths.plan):
        if os.path.exists(path):
            shutil.copyfile(path, os.path.join(place, os.path.basename(path)))
    for name, text in texts.items():
        if text:
            with open(os.path.join(place, name), "w", encoding="utf-8") as file:
                file.write(f"{text}\n")


async def _picture(vm: Vm, place: str) -> None:
    if vm.plan.guest.display and vm.is_alive:
        await vm.screenshot(os.path.join(place, "screenshot.png"))


def _end(text: str, count: int) -> str:
    """The last lines of `text`, without what a terminal would obey."""
    printable = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", text.replace("\r", ""))
    return "\n".join(printable.strip().splitlines()[-count:])


def directory_of(artifacts: str, nodeid: str) -> str:
    """Where the evidence of a test is kept."""
    return os.path.join(artifacts, re.sub(r"[^A-Za-z0-9_.-]+", "-", nodeid).strip("-.")[-200:])
