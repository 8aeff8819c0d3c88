"""Helper programs of a machine: what serves QEMU over a socket, decided before it is started.

A helper is given a socket to listen on, and QEMU the other end of the one connection that was made to it beforehand.
So nothing has to wait for the helper to be ready, and it is over for it as soon as nobody holds that end any more:
QEMU, or the launcher that was to start it.
"""

from __future__ import annotations

from typing import NamedTuple

from kvmctl.plan.option import Fd


class Tree(NamedTuple):
    """A directory with all that is mounted below it, as the helper sees it in a mount namespace of its own."""

    path: str
    """The directory on the host."""
    mount: str
    """The empty directory where the helper finds it; nothing is mounted there for anybody else."""
    read_only: bool
    """Nothing can be written by way of it, whatever the helper tries; submounts included."""


class Helper(NamedTuple):
    """A program that serves QEMU over a socket; started before it, and of the kind that ends when QEMU lets go."""

    id: str
    program: str
    """What it is called in messages: ``virtiofsd``."""
    argv: tuple[str | Fd, ...]
    """Its command line; the `Fd` in it is `listens`."""
    listens: str
    """The name of the descriptor of the socket that it listens on."""
    fd: str
    """The name of the connected descriptor that QEMU is given."""
    socket: str
    """Where the socket is bound, for the moment that connecting takes."""
    lock: str
    """A file that is locked as long as the helper lives."""
    log: str
    """A file for what it prints."""
    key: str
    """The spec's key that wants it."""
    tree: Tree | None = None
    """What it is confined to: it runs in namespaces of its own, as root of nothing else."""
