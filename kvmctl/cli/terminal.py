"""This terminal, joined to a machine's console.

What the guest prints is read from the console's log, in which nothing is ever missing, if one is kept; what is typed
goes to its socket. Typing in raw mode, every key is the guest's but one.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from signal import Signals
from typing import Final

from kvmctl import Console, Vm
from kvmctl.cli import output

LEAVE_KEY: Final = b"\x1d"
LEAVE_KEY_NAME: Final = "Ctrl-]"
_NO_WRAP: Final = b"\x1b[?7l"
"""SeaBIOS lets the terminal wrap no lines, and never takes it back: every long line afterwards would be cut off."""


async def join(vm: Vm, console: Console, *, from_now: bool, leave_on: tuple[Signals, ...] = ()) -> bool:
    """Join this terminal to `console` until the machine ends (True), or it was left by its key or a signal (False)."""
    with raw_mode():
        async with asyncio.TaskGroup() as group:
            if vm.has_console_log:
                showing = group.create_task(_show(vm, from_now=from_now))
                hearing = group.create_task(_hear(console, on_data=None))
            else:
                showing = hearing = group.create_task(_hear(console, on_data=output.emit_bytes))
            others = [group.create_task(_type(console, left=showing)), hearing]
            for number in leave_on:
                asyncio.get_running_loop().add_signal_handler(number, showing.cancel)
            showing.add_done_callback(lambda _: [task.cancel() for task in others])
    return not showing.cancelled()


async def _show(vm: Vm, *, from_now: bool) -> None:
    async for piece in vm.console_output(from_now=from_now):
        if piece:
            output.emit_bytes(piece.replace(_NO_WRAP, b"") if sys.stdout.isatty() else piece)


async def _type(console: Console, *, left: asyncio.Task[None]) -> None:
    """Pass on what is typed until the key to leave, which cancels `left`, or until there is no more to read."""
    keyboard = sys.stdin.fileno()
    is_terminal = os.isatty(keyboard)
    while True:
        await _wait_readable(keyboard)
        data = os.read(keyboard, 512)
        if not data:
            return
        if is_terminal and LEAVE_KEY in data:
            left.cancel()
            return
        await _send(console, data, may_drop=is_terminal)


async def typed() -> AsyncIterator[bytes]:
    """What comes on standard input, until its end."""
    keyboard = sys.stdin.fileno()
    await _wait_readable(keyboard)
    while data := os.read(keyboard, 65536):
        yield data
        await _wait_readable(keyboard)


async def _send(console: Console, data: bytes, *, may_drop: bool) -> None:
    # A guest that reads nothing leaves QEMU's buffer full. What is typed then is lost, as on a serial line, so that the
    # key to leave still works; what comes from a file waits.
    while not select.select([], [console], [], 0)[1]:
        if may_drop:
            return
        await _wait(console.fileno(), for_writing=True)
    console.send(data)


async def _hear(console: Console, *, on_data: Callable[[bytes], None] | None) -> None:
    """Take in what the console says, for nobody if the log has it too, so that QEMU has somewhere to put it."""
    await _wait_readable(console.fileno())
    while data := console.receive():
        if on_data is not None:
            on_data(data)
        await _wait_readable(console.fileno())


async def _wait_readable(descriptor: int) -> None:
    try:
        await _wait(descriptor, for_writing=False)
    except PermissionError:
        await asyncio.sleep(0)  # a regular file or /dev/null: epoll won't have it, and it can always be read


async def _wait(descriptor: int, *, for_writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add, remove = (loop.add_writer, loop.remove_writer) if for_writing else (loop.add_reader, loop.remove_reader)
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


@contextmanager
def raw_mode() -> Iterator[None]:
    """Give every key to the guest; the terminal is put back at the end."""
    if not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setraw(keyboard, termios.TCSADRAIN)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
