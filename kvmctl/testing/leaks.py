"""What a test has left running: told by a word in the environment of all that it started, whoever owns that by now."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Final

import psutil

from kvmctl.runtime import store
from kvmctl.testing.blueprint import TEST_WORD

_PROGRAMS: Final = ("qemu", "virtiofsd", "swtpm", "passt", "kvm")
"""How the programs' names begin that are looked at."""
_REAP_SECONDS: Final = 5.0
_TUN_PERSIST: Final = 0x800
"""A tap that stays without a process that has it (IFF_PERSIST, ``<linux/if_tun.h>``)."""


class Watchman:
    """Remembers what there was before a test, and says what it left."""

    def __init__(self) -> None:
        self.word = secrets.token_hex(8)
        """What `TEST_WORD` is for this test alone."""
        self._taps = set(_taps())

    def leaks(self, *, kept: list[str]) -> list[str]:
        """What is still there, of the machines `kept` apart; processes are ended, so that no other test meets them."""
        found = []
        for process in _started_with(self.word):
            with suppress(psutil.Error):
                command = process.cmdline()
                if not any(f"guest={name}" in word for word in command for name in kept):
                    found.append(f"process {process.pid}: {' '.join(command)[:300]}")
                    process.send_signal(SIGKILL)
                    process.wait(_REAP_SECONDS)
        if found:
            store.sweep(store.find_roots())
        return found + [f"tap {name}" for name in sorted(set(_taps()) - self._taps)]


def _started_with(word: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name().startswith(_PROGRAMS) and process.environ().get(TEST_WORD) == word:
                yield process


def _taps() -> Iterator[str]:
    """The taps that stay where nobody has them; all others go with their process."""
    with suppress(FileNotFoundError):
        for name in os.listdir("/sys/class/net"):
            with suppress(OSError, ValueError):
                flags = int(Path("/sys/class/net", name, "tun_flags").read_text(encoding="ascii"), 16)
                if flags & _TUN_PERSIST:
                    yield name
