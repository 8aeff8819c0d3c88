"""Our standard input and our signals, for a command in a guest."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, Signals
from typing import Final

from kvmctl import Control

_STDIN: Final = 0
_PIECE: Final = 65536


class Interrupted(Exception):
    """A second signal said that there is to be an end to it."""

    def __init__(self, number: Signals) -> None:
        self.number = number


async def stdin_pieces() -> AsyncIterator[bytes]:
    """What comes on standard input, until it ends."""
    while piece := await _read_stdin():
        yield piece


async def _read_stdin() -> bytes:
    # A thread that waits for input can't be ended, and would be waited for at the end of everything.
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        loop.add_reader(_STDIN, _wake, ready)
    except PermissionError:  # a plain file never has to be waited for
        await asyncio.sleep(0)
        return os.read(_STDIN, _PIECE)
    try:
        await ready
    finally:
        loop.remove_reader(_STDIN)
    return os.read(_STDIN, _PIECE)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


@contextmanager
def signals_to(control: Control) -> Iterator[None]:
    """SIGINT and SIGTERM go to `control` while the context lasts; the second of them raises Interrupted instead."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    seen: list[Signals] = []

    def forward(number: Signals) -> None:
        seen.append(number)
        if len(seen) == 1:
            control.signal(number)
        elif task is not None:
            task.cancel()

    for number in (SIGINT, SIGTERM):
        loop.add_signal_handler(number, forward, number)
    try:
        yield
    except asyncio.CancelledError:
        if len(seen) > 1:
            raise Interrupted(seen[-1]) from None
        raise
    finally:
        for number in (SIGINT, SIGTERM):
            loop.remove_signal_handler(number)
