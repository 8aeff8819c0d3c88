"""The monitor: a thin typed skin over qemu.qmp, and its only importer.

A `Monitor` is one connection. QEMU serves one client a socket; who connects to the public one is queued until the
client before has left. Events are not taken from here: the journal has them all, for everybody.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from qemu.qmp import (
    ConnectError,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    Runstate,
    StateError,
)

from kvmctl.errors import MonitorLost, QmpError

# What goes wrong is raised to whoever asked: to log it too, as an error, would be to cry wolf at every deadline.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class Monitor:
    """An open monitor, past its greeting. The caller owns time: use ``asyncio.timeout``."""

    def __init__(self, client: QMPClient, connection: socket.socket) -> None:
        self._client = client
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, connection: socket.socket, *, name: str) -> Monitor:
        """The monitor of machine `name` on a connected socket, which is used up. Raises MonitorLost."""
        client = QMPClient()  # a client with a name would leave a logger behind for each machine there ever was
        client.events.event_filter = _is_unwanted  # it would keep every event of the machine's life in memory
        monitor = cls(client, connection)
        connecting = asyncio.ensure_future(client.connect(connection))
        try:
            await asyncio.wait([connecting])
            connecting.result()
        except ConnectError as error:
            connection.close()
            raise MonitorLost(f"QEMU of {name!r} closed its monitor", detail=str(error.__cause__ or error)) from error
        except AssertionError as error:  # how qemu.qmp 0.0.6 takes a QEMU that hangs up right after it answered
            await monitor.close()
            raise MonitorLost(f"QEMU of {name!r} closed its monitor as it was opened") from error
        except BaseException:
            connecting.cancel()
            try:
                await _finish(connecting)
            finally:
                await monitor.close()
            raise
        return monitor

    @property
    def is_open(self) -> bool:
        """Whether it can be asked: QEMU has not hung up, and it was connected in the event loop that runs now."""
        return self._client.runstate is Runstate.RUNNING and self._loop is asyncio.get_running_loop()

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one command and return its reply. Raises QmpError where QEMU refuses, MonitorLost where it hangs up."""
        try:
            return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise QmpError(f"QEMU refused {command!r}: {error}", error_class=error.error_class) from error
        except (ExecInterruptedError, StateError) as error:
            raise MonitorLost(f"QEMU closed its monitor during {command!r}") from error

    async def pass_fd(self, name: str, descriptor: int) -> None:
        """Give QEMU a copy of `descriptor`, which commands call `name`. Raises QmpError, MonitorLost."""
        try:
            self._client.send_fd_scm(descriptor)
        except (OSError, StateError) as error:
            raise MonitorLost("QEMU closed its monitor before it was given a file") from error
        await self.execute("getfd", {"fdname": name})

    async def close(self) -> None:
        """Hang up; a connection that broke before is no error.

        That is done in an instant, without a word to QEMU, and whole: being cancelled meanwhile is heeded afterwards.
        """
        if self._loop is asyncio.get_running_loop() and self._client.runstate is not Runstate.IDLE:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)  # what a QEMU that hangs has not read is not waited for
            await _finish(asyncio.ensure_future(self._client.disconnect()))
        self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _finish(task: asyncio.Task[None]) -> None:
    """Wait for the end of `task`, of which nobody wants to hear how it went."""
    # qemu.qmp can't be cancelled while it disconnects: it would stay half-way, and complain when it is collected.
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.exception()  # or asyncio would print it
    if cancelled is not None:
        raise cancelled


def _is_unwanted(_: Message) -> bool:
    return False
