"""What a machine made from a frozen one adds to its plan: layers on top of images that are not its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SharedLock:
    """A file that is locked, together with others, for as long as QEMU lives: who wants to remove it is told."""

    fd: str
    path: str
    key: str


@dataclass(frozen=True, slots=True)
class AddLayer:
    """A qcow2 image to be made on top of `backing`, which is only read from then on."""

    path: str
    backing: str
    backing_format: str
    key: str


@dataclass(frozen=True, slots=True)
class CopyImage:
    """A small image to be copied as it is: the empty overlay that every fork begins with."""

    source: str
    path: str
    key: str
