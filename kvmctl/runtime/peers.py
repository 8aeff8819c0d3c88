"""Who is at the other end of a Unix socket, by the kernel's socket diagnostics (sock_diag(7),
``linux/unix_diag.h``)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import psutil
from pyroute2 import DiagSocket

_SHOW_VFS = 2
_SHOW_PEER = 4


def find_client(path: str) -> int | None:
    """The process whose connection to the listening socket at `path` was accepted; None where it can't be found out."""
    with suppress(OSError):
        inode = os.stat(path).st_ino
        for peer in _accepted_peers(inode):
            pid = _find_owner(peer)
            if pid is not None and pid != os.getpid():
                return pid
    return None


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped by a signal and will not do anything until it gets SIGCONT."""
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


def _accepted_peers(inode: int) -> Iterator[int]:
    with DiagSocket() as diag:
        diag.bind()
        records = list(diag.get_sock_stats(family=socket.AF_UNIX, show=_SHOW_VFS | _SHOW_PEER))
    for record in records:
        # A connection still in the backlog has no inode of its own yet: only accepted ones count.
        vfs, peer = record.get_attr("UNIX_DIAG_VFS"), record.get_attr("UNIX_DIAG_PEER")
        if vfs and peer and record["udiag_ino"] and vfs["udiag_vfs_ino"] == inode & 0xFFFFFFFF:
            yield peer


def _find_owner(inode: int) -> int | None:
    # psutil lists Unix sockets by path, and a client's has none: only its inode tells it.
    wanted = f"socket:[{inode}]"
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        directory = f"/proc/{name}/fd"
        with suppress(OSError):
            for descriptor in os.listdir(directory):
                with suppress(OSError):
                    if os.readlink(f"{directory}/{descriptor}") == wanted:
                        return int(name)
    return None
