"""An event loop in a thread of its own, for callers that have none, or have another one for every test.

The machines of a test run live on it. A captive QEMU ends with the thread that started it, so it is one that stays.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

_GOODBYE: Final = 15.0
"""Seconds that work which is broken off has to clean up after itself."""


class LoopThread:
    """A running event loop. Ends with the process, if nobody closes it before."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kvmctl-machines", daemon=True)
        self._thread.start()
        self._ready.wait()

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            self.loop = runner.get_loop()
            self._closing = asyncio.Event()
            self._ready.set()
            runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        await self._closing.wait()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do `work` on the loop and wait for it. Whoever is interrupted meanwhile waits for its cleaning up, too."""
        ended = threading.Event()
        task = asyncio.run_coroutine_threadsafe(_noting(work, ended), self.loop)
        try:
            return task.result()
        except BaseException:
            if not task.done():
                task.cancel()
                ended.wait(_GOODBYE)
            raise

    def close(self) -> None:
        """End the loop and its thread."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(_GOODBYE)


async def _noting(work: Coroutine[Any, Any, _T], ended: threading.Event) -> _T:
    try:
        return await work
    finally:
        ended.set()


async def on_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, _T]) -> _T:
    """`work` on `loop`, awaited from whatever loop runs here."""
    if loop is asyncio.get_running_loop():
        return await work
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
