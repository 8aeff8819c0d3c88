"""What a guest says of itself, by its agent: as much as that agent can tell, and what it can't."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kvmctl.errors import AgentError
from kvmctl.guest.agent import Agent
from kvmctl.guest.files import read_file
from kvmctl.guest.reply import take
from kvmctl.guest.turn import Turn

_T = TypeVar("_T")
_ITEMS_MAX: Final = 1000
_TIME_MAX: Final = 1 << 36
"""Seconds since the epoch, far from now, that a date can still be made of."""


@dataclass(frozen=True, slots=True)
class GuestOs:
    """An operating system, by its /etc/os-release and uname."""

    name: str
    """``Debian GNU/Linux 12 (bookworm)``."""
    id: str
    version: str
    kernel: str
    machine: str


@dataclass(frozen=True, slots=True)
class GuestFileSystem:
    """A mounted file system. Sizes are in bytes, None where the guest does not say."""

    mountpoint: str
    device: str
    type: str
    size: int | None
    used: int | None


@dataclass(frozen=True, slots=True)
class GuestInterface:
    """A network interface and its addresses, ``10.0.2.15/24``."""

    name: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestUser:
    """Somebody who is logged in, since `login` (seconds since the epoch)."""

    name: str
    login: float


@dataclass(frozen=True, slots=True)
class GuestInfo:
    """What a guest says of itself. What it can't say is None or empty, and `missing` has why, by the field's name."""

    agent: str
    """The agent's version."""
    hostname: str | None
    os: GuestOs | None
    timezone: str | None
    cpus: int | None
    """CPUs that are online."""
    load: tuple[float, float, float] | None
    """Over 1, 5 and 15 minutes."""
    filesystems: tuple[GuestFileSystem, ...]
    interfaces: tuple[GuestInterface, ...]
    users: tuple[GuestUser, ...]
    missing: Mapping[str, str]


async def read_info(agent: Agent) -> GuestInfo:
    """Ask the guest everything. Raises AgentError and DeadlineExceeded where there is no answer at all."""
    missing: dict[str, str] = {}

    async def ask(field: str, answer: Callable[[Turn], Awaitable[_T]], default: _T) -> _T:
        try:
            return await answer(turn)
        except AgentError as error:
            if not error.error_class:
                raise
            missing[field] = error.summary
            return default

    version = (await agent.info()).version
    async with Turn(agent) as turn:
        return GuestInfo(
            agent=version,
            hostname=await ask("hostname", _hostname, None),
            os=await ask("os", _os, None),
            timezone=await ask("timezone", _timezone, None),
            cpus=await ask("cpus", _cpus, None),
            load=await ask("load", _load, None),
            filesystems=await ask("filesystems", _filesystems, ()),
            interfaces=await ask("interfaces", _interfaces, ()),
            users=await ask("users", _users, ()),
            missing=missing,
        )


async def _hostname(turn: Turn) -> str | None:
    return take(await turn.execute("guest-get-host-name"), "host-name", str)


async def _os(turn: Turn) -> GuestOs | None:
    reply = await turn.execute("guest-get-osinfo")
    name = take(reply, "pretty-name", str, "") or take(reply, "name", str, "")
    return GuestOs(
        name=name,
        id=take(reply, "id", str, ""),
        version=take(reply, "version-id", str, ""),
        kernel=take(reply, "kernel-release", str, ""),
        machine=take(reply, "machine", str, ""),
    )


async def _timezone(turn: Turn) -> str | None:
    reply = await turn.execute("guest-get-timezone")
    sign, seconds = "-" if (offset := take(reply, "offset", int)) < 0 else "+", abs(offset)
    return take(reply, "zone", str, "") or f"UTC{sign}{seconds // 3600:02}:{seconds % 3600 // 60:02}"


async def _cpus(turn: Turn) -> int | None:
    items = _items(await turn.execute("guest-get-vcpus"))
    return sum(take(item, "online", bool) for item in items)


async def _load(turn: Turn) -> tuple[float, float, float] | None:
    """By the agent's own command, which is there from QEMU 10.0 on, or by Linux's file."""
    try:
        reply = await turn.execute("guest-get-load")
        words = [str(reply.get(f"load{minutes}m")) for minutes in (1, 5, 15)] if isinstance(reply, Mapping) else []
    except AgentError as error:
        if not error.error_class:
            raise
        words = list((await read_file(turn, "/proc/loadavg", limit=4096)).decode(errors="replace").split()[:3])
    try:
        one, five, fifteen = (float(word) for word in words)
    except ValueError as error:
        raise AgentError("the guest's load is no number") from error
    if not all(map(math.isfinite, (one, five, fifteen))):
        raise AgentError("the guest's load is no number")
    return one, five, fifteen


async def _filesystems(turn: Turn) -> tuple[GuestFileSystem, ...]:
    return tuple(
        GuestFileSystem(
            mountpoint=take(item, "mountpoint", str),
            device=take(item, "name", str),
            type=take(item, "type", str),
            size=_size(item, "total-bytes"),
            used=_size(item, "used-bytes"),
        )
        for item in _items(await turn.execute("guest-get-fsinfo"))
    )


async def _interfaces(turn: Turn) -> tuple[GuestInterface, ...]:
    items = _items(await turn.execute("guest-network-get-interfaces"))
    return tuple(
        GuestInterface(
            name=take(item, "name", str),
            mac=take(item, "hardware-address", str, ""),
            addresses=tuple(
                f"{take(address, 'ip-address', str)}/{take(address, 'prefix', int)}"
                for address in _items(item.get("ip-addresses", []))
            ),
        )
        for item in items
    )


async def _users(turn: Turn) -> tuple[GuestUser, ...]:
    items = _items(await turn.execute("guest-get-users"))
    return tuple(GuestUser(take(item, "user", str), _seconds(item.get("login-time"))) for item in items)


def _items(reply: object) -> list[Mapping[str, Any]]:
    """A reply that is a list of objects, and no longer than anything real. Raises AgentError."""
    if not isinstance(reply, list) or not all(isinstance(item, Mapping) for item in reply):
        raise AgentError("the guest agent's reply is no list")
    return reply[:_ITEMS_MAX]


def _size(item: Mapping[str, Any], key: str) -> int | None:
    return take(item, key, int) if key in item else None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < _TIME_MAX else 0.0
