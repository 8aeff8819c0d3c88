"""What a machine made from a frozen one adds to its plan: layers on top of images that are not its own."""

from __future__ import annotations

from typing import NamedTuple


class SharedLock(NamedTuple):
    """A file that is locked, together with others, for as long as QEMU lives: who wants to remove it is told."""

    fd: str
    path: str
    key: str


class AddLayer(NamedTuple):
    """A qcow2 image to be made on top of `backing`, which is only read from then on."""

    path: str
    backing: str
    backing_format: str
    key: str


class CopyImage(NamedTuple):
    """A small image to be copied as it is: the empty overlay that every fork begins with."""

    source: str
    path: str
    key: str
