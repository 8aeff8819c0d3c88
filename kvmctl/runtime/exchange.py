"""QMP for the length of a start: a few commands, one after the other, over the private monitor, without asyncio.

Whatever lives longer than that goes through qemu.qmp in ``kvmctl.runtime.monitor``. But asyncio and qemu.qmp take
longer to import than QEMU takes to come up, and a ``kvmctl start`` has two words to say and leaves.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from kvmctl.errors import MonitorLost, QmpError


class Exchange:
    """A monitor on a connected socket, which stays the caller's, for `seconds` in all.

    Every method raises MonitorLost where QEMU hangs up and TimeoutError where the time is up.
    """

    def __init__(self, connection: socket.socket, *, name: str, seconds: float) -> None:
        self._connection = connection
        self._name = name
        self._deadline = time.monotonic() + seconds
        self._received = b""
        self._events: list[dict[str, Any]] = []
        """Those that came while something else was waited for."""

    def open(self) -> None:
        """Wait for the greeting, and answer it."""
        self._read("its greeting")
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one command and return its reply. Raises QmpError where QEMU refuses."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._send(json.dumps(request).encode() + b"\n", command)
        while True:
            message = self._read(repr(command))
            if "return" in message:
                return message["return"]
            if "error" in message:
                error = message["error"]
                raise QmpError(f"QEMU refused {command!r}: {error['desc']}", error_class=error["class"])
            self._events.append(message)

    def wait_for(self, name: str, **data: object) -> None:
        """Wait for the event `name` with `data` in it, were it one that came since the last that was waited for."""
        while True:
            event = self._events.pop(0) if self._events else self._read(f"the wait for {name}")
            if event.get("event") == name and data.items() <= event["data"].items():
                return

    def _send(self, data: bytes, command: str) -> None:
        self._connection.settimeout(self._left())
        try:
            self._connection.sendall(data)
        except ConnectionError as error:
            raise self._lost(repr(command)) from error

    def _read(self, doing: str) -> dict[str, Any]:
        """The next message: QMP ends each with a newline, and has none inside."""
        while b"\n" not in self._received:
            self._connection.settimeout(self._left())
            try:
                data = self._connection.recv(65536)
            except ConnectionError as error:
                raise self._lost(doing) from error
            if not data:
                raise self._lost(doing)
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _lost(self, doing: str) -> MonitorLost:
        return MonitorLost(f"QEMU of {self._name!r} closed its monitor during {doing}")

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
