"""Waiting for whoever makes the same template: a lock of theirs, which goes with them however they end."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import ExitStack

from kvmctl import files
from kvmctl.errors import Busy
from kvmctl.image import ofd
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import unfinished


async def claim(paths: TemplatePaths, stack: ExitStack) -> bool:
    """Become the maker of `paths`, for as long as `stack` lasts; whether somebody else was, and was waited for."""
    has_waited = False
    while True:
        try:
            stack.enter_context(unfinished.make(paths))
        except Busy:
            has_waited = True
            await _wait_unlocked(paths.lock)
        else:
            return has_waited


async def _wait_unlocked(path: str) -> None:
    """Wait until nobody holds the lock of the file. Raises StateError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise files.cannot("open", path, error) from error
    loop, free = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        try:
            ofd.share(descriptor)
        finally:
            os.close(descriptor)
            if not loop.is_closed():
                loop.call_soon_threadsafe(free.set)

    # Nothing but the lock's release ends such a wait: no thread of the loop's own, which it would not end without.
    threading.Thread(target=wait, daemon=True, name="kvmctl-lock").start()
    await free.wait()
