"""Directories to build in, which vanish with the build: by its own hand, or by the next build's where it was killed."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from kvmctl import files
from kvmctl.image import ofd

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory of one build. Who inherits `lock` keeps it from being swept."""

    path: str
    lock: int

    def file(self, name: str) -> str:
        """The path of `name` in it."""
        return os.path.join(self.path, name)


@contextmanager
def workspace(parent: str) -> Iterator[Workspace]:
    """A fresh directory in `parent`, gone when the context is left; those of dead builds go too. Raises StateError."""
    files.make_private_dir(parent)
    try:
        sweep(parent)
        path, descriptor = _lock_new(parent)
    except OSError as error:
        raise files.cannot("build in", parent, error) from error
    try:
        os.mkdir(path, 0o700)
        yield Workspace(path, descriptor)
    finally:
        _remove(path)
        os.close(descriptor)


def sweep(parent: str) -> None:
    """Remove what builds left that are no more."""
    for name in os.listdir(parent):
        if not name.endswith(_LOCK):
            continue
        with suppress(FileNotFoundError):
            descriptor = os.open(os.path.join(parent, name), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if ofd.try_lock(descriptor):
                    _remove(os.path.join(parent, name.removesuffix(_LOCK)))
            finally:
                os.close(descriptor)


def _lock_new(parent: str) -> tuple[str, int]:
    """The path of a directory yet to be made, and its lock, which is taken before the directory is there."""
    while True:
        path = os.path.join(parent, f"build-{secrets.token_hex(4)}")
        descriptor = os.open(path + _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if ofd.try_lock(descriptor) and os.path.exists(path + _LOCK):
            return path, descriptor
        os.close(descriptor)  # swept between the two steps


def _remove(path: str) -> None:
    """Remove a build and its lock, the lock last."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError:
        # A package may have directories that their owner can't write to; the root of a namespace can.
        subprocess.run(["unshare", "--map-root-user", "rm", "-rf", "--", path], check=False)
    with suppress(FileNotFoundError):
        os.unlink(path + _LOCK)
