"""Waiting for the ssh server of a guest: until it speaks, and until it lets us in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from kvmctl.errors import HostKeyChanged, Unreachable
from kvmctl.guest.ssh import Login
from kvmctl.guest.sshrun import run_ssh
from kvmctl.runtime.handle import Handle
from kvmctl.runtime.reach import find_login

Note: TypeAlias = Callable[[str], None]
"""Takes what has been seen so far, for whoever gives up waiting."""

_PAUSE: Final = 0.5
"""Seconds between two attempts. Nothing announces a guest's server to the outside: asking again is the only way."""
_BANNER_MAX: Final = 4096
_BANNER_SECONDS: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds that a server is given to speak, attempt by attempt: a connection made before the guest has a network is
heard of late or never, and a guest without KVM may take seconds to start a server for one."""


async def wait_for_login(vm: Handle, *, note: Note) -> tuple[Login, str]:
    """Wait until one can log in over ssh, and say to what server; without a key of ours, until a server speaks.

    Raises Unreachable where no network leads in, HostKeyChanged.
    """
    while True:
        login = await _wait_for_address(vm, note=note)
        banner = await wait_for_banner(login, note=note)
        if login.key is None:
            return login, banner  # whether it lets us in is between the user's own keys and the guest
        try:
            result = await run_ssh(login, ["true"])
        except HostKeyChanged:
            raise
        except Unreachable as error:
            note(f"{banner} at {login}: {error.summary}")
        else:
            if result.exit_code == 0:
                return login, banner
            note(f"{banner} at {login}, and a login shell that ends with {result.exit_code}")
        await asyncio.sleep(_PAUSE)


async def _wait_for_address(vm: Handle, *, note: Note) -> Login:
    while True:
        try:
            return await find_login(vm)
        except Unreachable as error:
            if not any(network.type == "tap" for network in vm.plan.networks):
                raise
            note(error.summary)
        await asyncio.sleep(_PAUSE)


async def wait_for_banner(login: Login, *, note: Note) -> str:
    """Wait until an ssh server speaks, and return its first line: ``SSH-2.0-OpenSSH_9.2p1``.

    That a connection is accepted means nothing: QEMU's user network accepts it before it asks the guest.
    """
    attempt = 0
    while True:
        patience = _BANNER_SECONDS[min(attempt, len(_BANNER_SECONDS) - 1)]
        attempt += 1
        try:
            async with asyncio.timeout(patience):
                return await _read_banner(login)
        except TimeoutError:
            note(f"{login} takes connections, and nobody in the guest speaks")
        except EOFError:
            note(f"{login} takes connections and hangs up: no ssh server in the guest yet")
        except OSError as error:
            note(f"{login}: {error.strerror or error}")
        await asyncio.sleep(_PAUSE)


def ignore(_: str) -> None:
    """A `Note` that nobody reads."""


async def _read_banner(login: Login) -> str:
    reader, writer = await asyncio.open_connection(login.host, login.port, limit=_BANNER_MAX)
    try:
        while True:  # a server may say something else before its version (RFC 4253, 4.2)
            line = await _read_line(reader)
            if line.startswith("SSH-"):
                return line
    finally:
        writer.close()
        with suppress(OSError):  # it may have hung up already
            await writer.wait_closed()


async def _read_line(reader: asyncio.StreamReader) -> str:
    try:
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionResetError) as error:
        raise EOFError from error
    return "".join(char if char.isprintable() else "�" for char in line.decode(errors="replace").strip())
