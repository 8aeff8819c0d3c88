"""A client's way through the FIFOs of a guest agent's channel, which QEMU has open all the time.

A FIFO knows no clients: what they write would be mixed. So one has it at a time, by a lock, and one is next, by
another: without it, who gives the channel back and wants it again would always be quicker than who waits. Whatever ends
a holder closes the lock's file, and who waits is told so by the kernel. Nothing here needs asyncio.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, suppress
from typing import Final

from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths

TURN: Final = 0
NEXT: Final = 1
"""The locked bytes of the file: who has the channel, and who is next."""
_ROOM: Final = 1 << 20
"""Bytes that a FIFO is to hold for us. An agent that can't get rid of a reply tries again and again."""


class Fifos:
    """Both FIFOs, open without blocking, and the lock. Raises OSError where QEMU does not have them open any more."""

    def __init__(self, paths: MachinePaths) -> None:
        flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        with ExitStack() as stack:
            self.reader = os.open(f"{paths.agent_fifos}.out", os.O_RDONLY | flags)
            stack.callback(os.close, self.reader)
            self.writer = os.open(f"{paths.agent_fifos}.in", os.O_WRONLY | flags)
            stack.callback(os.close, self.writer)
            self.lock_path = paths.agent_lock
            self.lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            stack.callback(os.close, self.lock)
            self._stack = stack.pop_all()

    def try_turn(self) -> bool:
        """Take the channel; False where somebody has it, or is before us. Ask again when the lock's file is closed by
        somebody, or written to."""
        if not ofd.try_lock_byte(self.lock, NEXT) or not ofd.try_lock_byte(self.lock, TURN):
            return False
        ofd.unlock_byte(self.lock, NEXT)
        with suppress(OSError):  # who waits to be next is told by our end, too
            os.pwrite(self.lock, b"\n", 0)
        _widen(self.reader)
        return True

    def is_next_free(self) -> bool:
        """Whether nobody else waits to be next."""
        return not ofd.is_locked(self.lock, start=NEXT, length=1)

    def close(self) -> None:
        """Give the channel to the next."""
        self._stack.close()


def _widen(fifo: int) -> None:
    if fcntl.fcntl(fifo, fcntl.F_GETPIPE_SZ) < _ROOM:
        with suppress(OSError):  # there is a limit to what a user may have in pipes
            fcntl.fcntl(fifo, fcntl.F_SETPIPE_SZ, _ROOM)
