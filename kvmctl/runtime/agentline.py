"""Connections to the channel of a machine's guest agent, for asyncio."""

from __future__ import annotations

import os
import socket

from inotify_simple import INotify, flags

from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime.fifos import Fifos
from kvmctl.runtime.observe import wait_readable
from kvmctl.runtime.sockets import connect_unix
from kvmctl.runtime.watch import watch_path


class FifoLine(Fifos):
    """The FIFOs, whose turn is waited for without blocking the event loop."""

    async def wait_for_turn(self) -> None:
        """Wait until nobody else has them. Raises StateError."""
        if self.try_turn():
            return
        with watch_lock(self.lock_path) as watch:
            while not self.try_turn():  # looked at after the watch began: no closing goes unnoticed
                await wait_readable(watch.fileno())
                watch.read(timeout=0)


def watch_lock(path: str) -> INotify:
    """What is readable when a lock's file is closed by somebody who had it open, or written to. Raises StateError."""
    return watch_path(path, flags.CLOSE_WRITE | flags.MODIFY)


def connect_agent(paths: MachinePaths) -> socket.socket | FifoLine:
    """A way to the agent's channel: its FIFOs, or the socket of a serial port, and of a machine that an earlier kvmctl
    has started. Raises OSError."""
    if os.path.exists(f"{paths.agent_fifos}.in"):
        return FifoLine(paths)
    return connect_unix(paths.agent)
