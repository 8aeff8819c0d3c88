"""The monitor: a thin typed skin over qemu.qmp, and its only importer.

A `Monitor` is one connection. QEMU serves one client a socket; who connects to the public one is queued until the
client before has left. Events are not taken from here: the journal has them all, for everybody.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from qemu.qmp import (
    ConnectError,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from kvmctl.errors import MonitorLost, QmpError

# What goes wrong is raised to whoever asked; without a handler, logging would print it to stderr as well.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class Monitor:
    """An open monitor, past its greeting. The caller owns time: use ``asyncio.timeout``."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, connection: socket.socket, *, name: str) -> Monitor:
        """The monitor of machine `name` on a connected socket, which is used up. Raises MonitorLost."""
        client = QMPClient(name)
        client.events.event_filter = _is_unwanted  # it would keep every event of the machine's life in memory
        try:
            await client.connect(connection)
        except ConnectError as error:
            raise MonitorLost(f"QEMU of {name!r} closed its monitor", detail=str(error.__cause__ or error)) from error
        except BaseException:
            connection.close()
            raise
        return cls(client)

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one command and return its reply. Raises QmpError where QEMU refuses, MonitorLost where it hangs up."""
        try:
            return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise QmpError(f"QEMU refused {command!r}: {error}", error_class=error.error_class) from error
        except (ExecInterruptedError, StateError) as error:
            raise MonitorLost(f"QEMU closed its monitor during {command!r}") from error

    async def close(self) -> None:
        """Hang up; a connection that broke before is no error."""
        if self._client.runstate is Runstate.IDLE:
            return
        try:
            await self._client.disconnect()
        except (QMPError, OSError, EOFError):
            return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _is_unwanted(_: Message) -> bool:
    return False
