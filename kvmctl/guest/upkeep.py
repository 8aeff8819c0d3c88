"""What an agent does for its guest in one request: a password, the clock, what disks need not keep."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass

from kvmctl.errors import AgentError
from kvmctl.guest.agent import Agent
from kvmctl.guest.command import run_captured
from kvmctl.guest.reply import printable, take
from kvmctl.guest.shell import SHELL
from kvmctl.guest.turn import Turn

_TRIM_PATIENCE = 600.0
"""Seconds: a large disk on a slow host takes minutes."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What became of one file system that was trimmed."""

    path: str
    size: int | None
    """Bytes given back to the host; None where the guest does not say."""
    error: str = ""
    """Why it was not, in the guest's words."""


async def set_password(agent: Agent, user: str, password: str, *, crypted: bool = False) -> None:
    """Set the password of a user of the guest; a `crypted` one is as in /etc/shadow.

    Raises AgentError where that can't be, or the guest refuses.
    """
    # The agent hands both to chpasswd, a line with a colon in it: a second line would be another user's.
    if not user or any(char in user for char in ":\n\0"):
        raise AgentError(f"{user!r} can't be a user of the guest")
    if any(char in password for char in "\n\0"):
        raise AgentError("a password can't have line breaks or zero bytes in it")
    encoded = base64.b64encode(password.encode()).decode()
    await agent.execute("guest-set-user-password", {"username": user, "password": encoded, "crypted": crypted})


async def set_clock(agent: Agent) -> float:
    """Set the guest's clock to this host's; by how many seconds it was ahead.

    Raises AgentError where the guest refuses, DeadlineExceeded.
    """
    ahead = await _clock(agent) - time.time()
    try:
        await agent.execute("guest-set-time", {"time": time.time_ns()})
    except AgentError as error:
        if not error.error_class or not await _set_by_date(agent):
            raise
    return ahead


async def _set_by_date(agent: Agent) -> bool:
    """Set the clock where the agent can't for want of a hwclock program, which it wants for the hardware's."""
    async with Turn(agent) as turn:
        end = await run_captured(turn, [SHELL, "-c", 'date -u -s "@$1"', "kvmctl", str(round(time.time()))])
    return end.exit_code == 0


async def trim(agent: Agent, *, minimum: int = 0) -> list[Trimmed]:
    """Let the host have back what the guest's file systems don't use, in pieces of `minimum` bytes and more.

    Raises AgentError, DeadlineExceeded.
    """
    async with agent.session(patience=_TRIM_PATIENCE) as session:
        reply = await session.execute("guest-fstrim", {"minimum": minimum})
    found = reply.get("paths") if isinstance(reply, Mapping) else None
    if not isinstance(found, list):
        raise AgentError("the guest agent does not say what it trimmed")
    return [_trimmed(item) for item in found]


def _trimmed(item: object) -> Trimmed:
    size = take(item, "trimmed", int, -1)
    return Trimmed(take(item, "path", str), size if size >= 0 else None, printable(take(item, "error", str, "")))


async def _clock(agent: Agent) -> float:
    return take({"time": await agent.execute("guest-get-time")}, "time", int) / 1e9
