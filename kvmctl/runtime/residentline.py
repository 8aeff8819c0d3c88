"""The way to the program that waits in a guest: it serves whoever is connected, and nobody else meanwhile.

Whoever is connected holds a lock. Who finds it taken need not wait for the end of somebody's command: there is the
agent.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from kvmctl.guest.poll import OwnLine
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.sockets import connect_unix


class ResidentLine(OwnLine):
    """A connection to the program, with the lock."""

    def __init__(self, paths: MachinePaths) -> None:
        """Raises OSError: BlockingIOError where somebody else has it."""
        with ExitStack() as stack:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(paths.resident_lock, flags, 0o600)
            stack.callback(os.close, lock)
            if not ofd.try_lock(lock):
                raise BlockingIOError
            connection = connect_unix(paths.resident)
            stack.callback(connection.close)
            super().__init__(connection)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Hang up, and let the next one in."""
        self._stack.close()
