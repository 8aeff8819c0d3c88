"""Directories that are made aside and renamed when they are whole, so that nothing half-made is ever seen.

The maker holds the lock in the directory; a free one is that of a maker who died, and is swept by whoever comes next.
Only the standard library here: ``list`` pays for every import.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from kvmctl import files
from kvmctl.errors import Busy, StateError
from kvmctl.image import ofd
from kvmctl.plan.paths import Roots
from kvmctl.plan.template_paths import TemplatePaths

_REPLACED = "..old"
"""Ends the name of a template that is about to be removed; no template can be called so."""


@contextmanager
def make(paths: TemplatePaths) -> Iterator[None]:
    """An empty directory at `paths`, held by this process for as long as the context lasts, and gone with it.

    Unless it has been given its name by then: see `finish`. Raises Busy where another process makes the same one.
    """
    with ExitStack() as stack:
        with _one_at_a_time(os.path.dirname(paths.directory)):
            _sweep_one(paths)
            files.make_private_dir(paths.directory)
            stack.callback(files.remove_tree, paths.directory)
            stack.enter_context(_held(paths))
        yield


def check_free(paths: TemplatePaths) -> None:
    """Raises Busy where what is to be replaced is in use: better now than when there is something to put there."""
    with exclusive(paths):
        pass


def finish(unfinished: TemplatePaths, final: TemplatePaths) -> None:
    """Give what was made its name; what had it is replaced. Raises Busy where that is in use."""
    with _one_at_a_time(os.path.dirname(final.directory)), ExitStack() as stack:
        old = f"{os.path.dirname(final.directory)}/.{final.name}{_REPLACED}"
        if os.path.lexists(final.directory):
            stack.enter_context(exclusive(final))
            os.rename(final.directory, old)
            stack.callback(files.remove_tree, old)
        try:
            os.rename(unfinished.directory, final.directory)
            files.sync_dir(os.path.dirname(final.directory))
        except OSError as error:
            raise files.cannot("name", final.directory, error) from error


def remove(paths: TemplatePaths) -> None:
    """Remove a finished directory: at once for everybody who looks. Raises Busy where it is in use."""
    with _one_at_a_time(os.path.dirname(paths.directory)), exclusive(paths):
        old = f"{os.path.dirname(paths.directory)}/.{paths.name}{_REPLACED}"
        files.remove_tree(old)
        os.rename(paths.directory, old)
        files.remove_tree(old)


def sweep(roots: Roots) -> None:
    """Clear away what makers that died have left."""
    with suppress(FileNotFoundError):
        for name in os.listdir(roots.templates):
            if name.startswith("."):
                with _one_at_a_time(roots.templates), suppress(Busy):
                    _sweep_one(TemplatePaths(name, os.path.join(roots.templates, name)))


@contextmanager
def exclusive(paths: TemplatePaths) -> Iterator[None]:
    """The directory, for as long as nobody else may have it. Raises Busy while forks or others hold it."""
    try:
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # it is damaged, and nobody can have a fork of it
        yield
        return
    except OSError as error:
        raise files.cannot("open", paths.lock, error) from error
    try:
        if not ofd.try_lock(descriptor):
            raise Busy(f"template {paths.name!r} is in use", hint="Its forks live on its files: stop them first.")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def shared(paths: TemplatePaths) -> Iterator[None]:
    """The directory, which nobody removes meanwhile. Raises FileNotFoundError, Busy."""
    descriptor = os.open(paths.lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not ofd.try_share(descriptor):
            raise Busy(f"template {paths.name!r} is being replaced or removed", hint="Try again in a moment.")
        yield
    finally:
        os.close(descriptor)


def is_in_use(paths: TemplatePaths) -> bool:
    """Whether forks of the template live, or somebody is at it."""
    return ofd.is_path_locked(paths.lock)


@contextmanager
def _held(paths: TemplatePaths) -> Iterator[None]:
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not ofd.try_lock(descriptor):
            raise Busy(f"template {paths.name!r} is being made by another process", hint="Wait for it.")
        yield
    finally:
        os.close(descriptor)


def _sweep_one(paths: TemplatePaths) -> None:
    """Remove what lies at `paths`, unless it is held. Raises Busy."""
    if not os.path.lexists(paths.directory):
        return
    if ofd.is_path_locked(paths.lock):
        raise Busy(f"template {paths.name!r} is being made by another process", hint="Wait for it.")
    files.remove_tree(paths.directory)


@contextmanager
def _one_at_a_time(directory: str) -> Iterator[None]:
    """Making, naming and sweeping exclude each other, among all processes, for the instant that they take."""
    files.make_private_dir(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        if isinstance(error, StateError):
            raise
        raise files.cannot("write", directory, error) from error
    finally:
        os.close(descriptor)
