"""The console: a socket with one user at a time, and a lock that says who that is."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from kvmctl import files
from kvmctl.errors import ConsoleBusy, NotFound, NotRunning
from kvmctl.image import ofd
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.runtime import end
from kvmctl.runtime.process import Process
from kvmctl.runtime.sockets import connect_unix


class Console:
    """The attached console of a running machine: what is sent goes to the guest, what is received came from it.

    `fileno` is readable when the guest printed something; `receive` gives nothing once the machine has ended. Whoever
    is attached must receive: QEMU holds the guest's output back, from the log too, while nobody takes it in.
    """

    def __init__(self, connection: socket.socket, lock: int, process: Process) -> None:
        self._connection = connection
        self._lock = lock
        self._process = process

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._connection.fileno()

    def send(self, data: bytes) -> None:
        """Type `data`, waiting until QEMU has it all. It is lost where the machine has ended, as `receive` tells."""
        with suppress(ConnectionError):
            self._connection.sendall(data)

    def receive(self, limit: int = 65536) -> bytes:
        """What the guest printed, at most `limit` bytes, waiting for the first; empty once the machine has ended."""
        try:
            return self._connection.recv(limit)
        except ConnectionError:
            return b""

    def close(self) -> None:
        """Detach; the machine runs on."""
        self._connection.close()
        self._process.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_console(name: str, *, roots: Roots | None = None) -> Console:
    """Attach to the first console of the running machine `name`.

    Raises ConsoleBusy, NotRunning, StateError, and NotFound where there is no such machine, or it has no console.
    """
    paths, process = end.find_running(name, roots=roots)
    lock = -1
    try:
        lock = _take_lock(paths)
        return Console(_connect(paths), lock, process)
    except BaseException:
        process.close()
        if lock >= 0:
            os.close(lock)
        raise


def _connect(paths: MachinePaths) -> socket.socket:
    try:
        return connect_unix(paths.console)
    except FileNotFoundError as error:
        raise NotFound(
            f"machine {paths.name!r} has no console to attach to", hint="Give it one in the spec: [[serials]]."
        ) from error
    except OSError as error:
        raise NotRunning(f"machine {paths.name!r} does not answer on its console: {error.strerror}") from error


def _take_lock(paths: MachinePaths) -> int:
    try:
        descriptor = os.open(paths.console_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise files.cannot("open", paths.console_lock, error) from error
    if ofd.try_lock(descriptor):
        with suppress(OSError):  # the lock holds on a full disk, too; who is second is not told by whom
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        return descriptor
    text = os.pread(descriptor, 32, 0).strip()
    os.close(descriptor)
    holder = int(text) if text.isdigit() else None
    raise ConsoleBusy(
        f"the console of {paths.name!r} is in use" + (f" by process {holder}" if holder else ""),
        hint=f"One terminal at a time can type; to read along: kvmctl logs -f {paths.name}",
        holder=holder,
    )
