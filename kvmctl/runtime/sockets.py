"""Unix sockets at paths of any length: ``sun_path`` holds 107 bytes, a directory's descriptor under /proc/self/fd
is always short."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from kvmctl.errors import StateError
from kvmctl.plan.paths import fits_sun_path

BACKLOG = 4096
"""Clients that wait their turn at a socket with one user at a time; the kernel caps it at ``net.core.somaxconn``."""


def listen_unix(path: str) -> socket.socket:
    """A listening socket at `path`, 0600, in place of a stale one. Raises StateError."""
    _remove_stale(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(server.fileno(), 0o600)  # the node that bind makes takes its mode from here, so it is never wider
        with short_path(path) as short:
            server.bind(short)
            os.chmod(short, 0o600)  # and not narrower than we need it: a umask may have taken more
        server.listen(BACKLOG)
    except BaseException as error:
        server.close()
        if isinstance(error, OSError):
            raise StateError(f"cannot listen on {path!r}: {error.strerror}") from error
        raise
    return server


def connect_unix(path: str) -> socket.socket:
    """A socket connected to `path`, or queued for its turn. Raises OSError; does not wait, were the queue full."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(0)
        with short_path(path) as short:
            client.connect(short)
        client.settimeout(None)
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """A name for `path` that fits a socket address while the context lasts: `path` itself where it does."""
    if fits_sun_path(path):
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StateError(f"{path!r} is in the way: a socket is to be made there")
    os.unlink(path)
