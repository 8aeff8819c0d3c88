"""What makes a fork of a frozen guest different from all others: fresh random numbers, the time, a name of its own.

A frozen guest wakes up with the random numbers, and the clock, that it was frozen with. Where its kernel has a driver
for the generation ID device it is told that it was copied; Debian's cloud kernel has none. So a program of a few
hundred bytes is put into the guest before it is frozen, and run through its agent in every fork, before anybody gets
to see it. In a guest that lets no program be put there, perl or python does the same. See random(4), ``RNDADDENTROPY``
and ``RNDRESEEDCRNG``; the source is the assembly beside this file, assembled by ``scripts/build-renew``.

May import errors, and its neighbours in guest.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from kvmctl.errors import AgentError
from kvmctl.guest.command import run_captured
from kvmctl.guest.renewal import ERRORS, Renewal
from kvmctl.guest.shell import SHELL
from kvmctl.guest.turn import Turn

PROGRAM: Final = str(Path(__file__).with_name("renew.bin"))
"""Path of the program's bytes."""
_PLACES: Final = ("/run", "/dev/shm", "/tmp", "/root")  # noqa: S108  # in the guest
"""Where the program is put: first where it is gone with the guest, and not on its disk."""
_NAME: Final = "kvmctl-renew"
_PERL: Final = """\
read STDIN, $d, 4096; $t = substr $d, 0, 16; $s = substr $d, 16, 72; $n = substr $d, 88;
open R, ">", "/dev/urandom" and ioctl R, 0x40085203, $s and ioctl R, 0x5207, 0 or exit 2;
syscall(227, 0, $t) == 0 or exit 3;
$n eq "" or syscall(170, $n, length $n) == 0 or exit 4"""
_PYTHON: Final = """\
import fcntl, socket, struct, sys, time
given = sys.stdin.buffer.read()
with open("/dev/urandom", "wb", 0) as device:
    fcntl.ioctl(device, 0x40085203, given[16:88])
    fcntl.ioctl(device, 0x5207)
seconds, rest = struct.unpack("<qq", given[:16])
time.clock_settime_ns(0, seconds * 10**9 + rest)
if given[88:]:
    socket.sethostname(given[88:])"""
_HUSH: Final = """\
cd /sys/bus/acpi/drivers && ! [ -e vmgenid ] && echo disable >/sys/firmware/acpi/interrupts/gpe05"""
"""Switches off the event that QEMU announces a new generation ID by: ``\\_GPE._E05`` of its ACPI tables."""
INTERPRETERS: Final = (("perl", "-e", _PERL), ("python3", "-c", _PYTHON))
"""Commands that do what the program does, where a guest lets none be put there."""


async def install(turn: Turn, renewal: Renewal) -> tuple[str, ...] | None:
    """The command that renews this guest, tried once with `renewal`; None where there is none.

    Raises DeadlineExceeded where the agent does not answer.
    """
    async for command in _commands(turn):
        with suppress(AgentError):
            await renew(turn, command, renewal)
            return command
    return None


async def hush(turn: Turn) -> None:
    """Keep a guest without a driver for the generation ID from being told of new ones.

    It would run ACPI's interpreter for nothing, in every fork, when it has just woken up: under TCG that is a sixth of
    the time to its first answer. Raises DeadlineExceeded where the agent does not answer.
    """
    with suppress(AgentError):  # a guest of another kind
        await run_captured(turn, [SHELL, "-c", _HUSH])


async def renew(turn: Turn, command: tuple[str, ...], renewal: Renewal) -> None:
    """Have the guest renewed by the `command` that `install` found. Raises AgentError, DeadlineExceeded."""
    end = await run_captured(turn, command, stdin=renewal.dumps())
    if end.exit_code:
        what = ERRORS.get(end.exit_code, f"ended with status {end.exit_code}")
        raise AgentError(
            f"the program that renews the guest {what}", detail=end.stderr.decode(errors="replace").strip()
        )


async def _commands(turn: Turn) -> AsyncIterator[tuple[str, ...]]:
    async for path in put_program(turn, _NAME, await asyncio.to_thread(Path(PROGRAM).read_bytes)):
        yield (path,)
    for interpreter in INTERPRETERS:
        yield interpreter


async def put_program(turn: Turn, name: str, data: bytes) -> AsyncIterator[str]:
    """Put a program into the guest, in one place after the other where it may be run; its path there.

    Raises DeadlineExceeded where the agent does not answer.
    """
    for place in _PLACES:
        path = f"{place}/{name}"
        if await _is_put(turn, path, data):
            yield path


async def _is_put(turn: Turn, path: str, data: bytes) -> bool:
    """Write an executable file in the guest, if the agent may. Raises DeadlineExceeded."""
    try:
        handle = await turn.execute("guest-file-open", {"path": path, "mode": "w"})
        try:
            await turn.execute("guest-file-write", {"handle": handle, "buf-b64": base64.b64encode(data).decode()})
        finally:
            await turn.execute("guest-file-close", {"handle": handle})
        end = await run_captured(turn, ["chmod", "0700", path])
    except AgentError:
        return False
    return end.exit_code == 0
