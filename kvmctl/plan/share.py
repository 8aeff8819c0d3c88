"""Directories that a machine shares: what must be there before it starts, and what later commands want to know."""

from __future__ import annotations

from typing import Literal, NamedTuple


class InputDirectory(NamedTuple):
    """A directory that must be there, and readable, before QEMU starts."""

    path: str
    key: str


class SharedDirectory(NamedTuple):
    """A directory of the host that the guest can mount by its `tag`; `id` is its helper's, where it has one."""

    id: str
    path: str
    tag: str
    driver: Literal["virtiofs", "9p"]
    mount: str | None
    """Where a guest that was prepared for it mounts it."""
    read_only: bool
