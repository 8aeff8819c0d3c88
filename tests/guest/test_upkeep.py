"""What an agent does for its guest, what it says of it, and what it is not believed."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from kvmctl.errors import AgentError
from kvmctl.guest.agent import Agent
from kvmctl.guest.fsfreeze import freeze, is_frozen, thaw
from kvmctl.guest.info import GuestFileSystem, GuestInterface, GuestUser, read_info
from kvmctl.guest.upkeep import Trimmed, set_clock, set_password, trim
from kvmctl.testing.fakeagent import Command, FakeAgent, Refusal

from .local_agent import LocalCommands

HUGE = int("9" * 400)
"""What is a number to JSON and to Python, and to nobody else."""


async def test_password_reaches_the_agent_encoded() -> None:
    asked: list[dict[str, Any]] = []
    async with FakeAgent({"guest-set-user-password": asked.append}) as fake:
        await set_password(Agent(fake.connect), "root", "pä:ss", crypted=True)
    assert asked == [{"username": "root", "password": base64.b64encode("pä:ss".encode()).decode(), "crypted": True}]


@pytest.mark.parametrize(
    ("user", "password"), [("", "x"), ("a:b", "x"), ("a\nroot", "x"), ("a\0", "x"), ("a", "x\nroot:evil"), ("a", "\0")]
)
async def test_password_that_would_be_taken_for_another_users_is_refused(user: str, password: str) -> None:
    async with FakeAgent() as fake:
        with pytest.raises(AgentError, match="can't"):
            await set_password(Agent(fake.connect), user, password)
        assert fake.requests == []


async def test_clock_is_set_to_this_hosts_and_the_difference_told() -> None:
    clock: list[float] = [time.time() + 100]

    def set_time(arguments: dict[str, Any]) -> object:
        clock[0] = arguments["time"] / 1e9
        return {}

    async with FakeAgent({"guest-get-time": lambda _: int(clock[0] * 1e9), "guest-set-time": set_time}) as fake:
        assert await set_clock(Agent(fake.connect)) == pytest.approx(100, abs=5)
        assert await set_clock(Agent(fake.connect)) == pytest.approx(0, abs=5)


async def test_clock_of_a_guest_without_hwclock_is_set_by_date() -> None:
    def refuse(_: dict[str, Any]) -> object:
        raise Refusal("GenericError", "this feature or command is not currently supported")

    ran: list[list[str]] = []

    def run(arguments: dict[str, Any]) -> object:
        ran.append(arguments["arg"])
        return {"pid": 1}

    table: dict[str, Command] = {
        "guest-get-time": lambda _: 0,
        "guest-set-time": refuse,
        "guest-exec": run,
        "guest-exec-status": lambda _: {"exited": True, "exitcode": 0},
    }
    async with FakeAgent(table) as fake:
        assert await set_clock(Agent(fake.connect)) == pytest.approx(-time.time(), abs=5)
    assert ran[0][1] == 'date -u -s "@$1"'
    table["guest-exec-status"] = lambda _: {"exited": True, "exitcode": 1}
    async with FakeAgent(table) as fake:
        with pytest.raises(AgentError, match="not currently supported"):
            await set_clock(Agent(fake.connect))


async def test_trimming_tells_of_each_file_system() -> None:
    paths = [
        {"path": "/", "trimmed": 4096, "minimum": 0},
        {"path": "/srv", "error": "not \x1b supported"},
        {"path": "/a"},
    ]
    async with FakeAgent({"guest-fstrim": lambda _: {"paths": paths}}) as fake:
        found = await trim(Agent(fake.connect))
    assert found == [Trimmed("/", 4096), Trimmed("/srv", None, "not � supported"), Trimmed("/a", None)]


@pytest.mark.parametrize("reply", [None, [], {"paths": 1}, {"paths": [1]}, {"paths": [{"path": "/", "trimmed": HUGE}]}])
async def test_nonsense_about_trimming_is_an_agent_error(reply: object) -> None:
    async with FakeAgent({"guest-fstrim": lambda _: reply}) as fake:
        with pytest.raises(AgentError):
            await trim(Agent(fake.connect))


async def test_freezing_and_thawing_count_file_systems() -> None:
    table: dict[str, Command] = {
        "guest-fsfreeze-freeze": lambda _: 3,
        "guest-fsfreeze-thaw": lambda _: 2,
        "guest-fsfreeze-status": lambda _: "frozen",
    }
    async with FakeAgent(table) as fake:
        agent = Agent(fake.connect)
        assert (await freeze(agent), await thaw(agent), await is_frozen(agent)) == (3, 2, True)


@pytest.mark.parametrize("reply", [None, "3", True, HUGE, {}])
async def test_nonsense_about_freezing_is_an_agent_error(reply: object) -> None:
    names = ("guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status", "guest-get-time")
    async with FakeAgent({name: lambda _: reply for name in names}) as fake:
        for ask in (freeze, thaw, is_frozen, set_clock):
            with pytest.raises(AgentError):
                await ask(Agent(fake.connect))  # type: ignore[operator]


TELLING: dict[str, Command] = {
    "guest-get-host-name": lambda _: {"host-name": "web"},
    "guest-get-osinfo": lambda _: {"pretty-name": "Debian 12", "id": "debian", "kernel-release": "6.1"},
    "guest-get-timezone": lambda _: {"offset": -5400},
    "guest-get-vcpus": lambda _: [{"online": True}, {"online": False}],
    "guest-get-load": lambda _: {"load1m": 0.5, "load5m": 0.25, "load15m": 0},
    "guest-get-fsinfo": lambda _: [
        {"mountpoint": "/", "name": "vda1", "type": "ext4", "total-bytes": 10, "used-bytes": 4},
        {"mountpoint": "/boot", "name": "vda2", "type": "vfat"},
    ],
    "guest-network-get-interfaces": lambda _: [
        {
            "name": "eth0",
            "hardware-address": "52:54:00:00:00:01",
            "ip-addresses": [{"ip-address": "10.0.2.15", "prefix": 24}],
        },
        {"name": "sit0"},
    ],
    "guest-get-users": lambda _: [{"user": "root", "login-time": 12.5}],
}


async def test_guest_tells_all_of_itself() -> None:
    async with FakeAgent(TELLING) as fake:
        found = await read_info(Agent(fake.connect))
    assert (found.hostname, found.timezone, found.cpus, found.load) == ("web", "UTC-01:30", 1, (0.5, 0.25, 0.0))
    assert found.os is not None
    assert (found.os.name, found.os.id, found.os.kernel) == ("Debian 12", "debian", "6.1")
    assert found.filesystems == (
        GuestFileSystem("/", "vda1", "ext4", 10, 4),
        GuestFileSystem("/boot", "vda2", "vfat", None, None),
    )
    assert found.interfaces == (
        GuestInterface("eth0", "52:54:00:00:00:01", ("10.0.2.15/24",)), GuestInterface("sit0", "", ()),
    )  # fmt: skip
    assert found.users == (GuestUser("root", 12.5),)
    assert found.missing == {}


async def test_what_an_agent_can_not_tell_is_said_and_the_rest_is_told() -> None:
    async with FakeAgent({"guest-get-host-name": lambda _: {"host-name": "web"}}) as fake:
        found = await read_info(Agent(fake.connect))
    assert (found.hostname, found.os, found.filesystems) == ("web", None, ())
    assert set(found.missing) == {"os", "timezone", "cpus", "load", "filesystems", "interfaces", "users"}
    assert "has not been found" in found.missing["os"]


async def test_load_is_read_from_the_guests_files_where_the_agent_has_no_word_for_it() -> None:
    commands = LocalCommands()
    async with FakeAgent(commands.table()) as fake:
        found = await read_info(Agent(fake.connect))
    assert found.load is not None
    assert "load" not in found.missing


@pytest.mark.parametrize("reply", [None, 1, "x", [1], [[]], {"load1m": "x"}, {"load1m": 1e400}, HUGE, [{}] * 3])
@pytest.mark.parametrize("command", TELLING)
async def test_nonsense_about_itself_is_an_agent_error(command: str, reply: object) -> None:
    if command == "guest-get-osinfo" and isinstance(reply, dict):
        reply = {"name": reply}  # any object is one that leaves everything out
    async with FakeAgent({**TELLING, command: lambda _: reply}) as fake:
        with pytest.raises(AgentError):
            await read_info(Agent(fake.connect))


@pytest.mark.parametrize("login", [HUGE, -1, 1e300, "x", None, True])
async def test_a_login_at_no_time_is_at_the_beginning_of_time(login: object) -> None:
    async with FakeAgent({**TELLING, "guest-get-users": lambda _: [{"user": "root", "login-time": login}]}) as fake:
        (user,) = (await read_info(Agent(fake.connect))).users
    assert 0 <= user.login <= 1
