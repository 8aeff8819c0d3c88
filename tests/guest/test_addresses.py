"""What a guest's kernel says of its IPv6 addresses, while it waits for others to claim them and after."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from kvmctl.guest.addresses import has_tentative, lists_tentative
from kvmctl.guest.agent import Agent
from kvmctl.guest.turn import Turn
from kvmctl.testing.fakeagent import FakeAgent, Refusal

LOOPBACK = "00000000000000000000000000000001 01 80 10 80       lo\n"
TENTATIVE = "fe80000000000000505400fffe736a0c 02 40 20 c0     eth0\n"
OWN = "fe80000000000000505400fffe736a0c 02 40 20 80     eth0\n"
CLAIMED = "fe80000000000000505400fffe736a0c 02 40 20 c8     eth0\n"
"""As Linux 6.1 has them in /proc/net/if_inet6."""


@pytest.mark.parametrize(
    ("table", "is_tentative"),
    [
        (LOOPBACK + TENTATIVE, True),
        (LOOPBACK + OWN, False),
        (LOOPBACK + CLAIMED, False),
        (LOOPBACK, False),
        ("", False),
        ("fe80\n1 2 3 4 none eth0\n\xff", False),
    ],
    ids=["tentative", "own", "claimed-by-another", "no-card", "no-addresses", "something-else"],
)
def test_addresses_that_may_yet_become_the_guests_own_are_told_from_others(table: str, *, is_tentative: bool) -> None:
    assert lists_tentative(table.encode("latin-1")) is is_tentative


@pytest.mark.parametrize(("table", "is_tentative"), [(LOOPBACK + TENTATIVE, True), (OWN, False)])
async def test_the_kernels_table_is_read_by_the_agent(table: str, *, is_tentative: bool) -> None:
    opened: list[Any] = []

    def open_file(arguments: dict[str, Any]) -> int:
        opened.append(arguments["path"])
        return 1

    reply = {"count": len(table), "buf-b64": base64.b64encode(table.encode()).decode(), "eof": True}
    commands = {"guest-file-open": open_file, "guest-file-read": lambda _: reply, "guest-file-close": lambda _: {}}
    async with FakeAgent(commands) as fake, Turn(Agent(fake.connect)) as turn:
        assert await has_tentative(turn) is is_tentative
    assert opened == ["/proc/net/if_inet6"]


async def test_a_guest_that_does_not_say_waits_for_nothing() -> None:
    def refuse(_: dict[str, Any]) -> object:
        raise Refusal("GenericError", "failed to open file '/proc/net/if_inet6': No such file or directory")

    async with FakeAgent({"guest-file-open": refuse}) as fake, Turn(Agent(fake.connect)) as turn:
        assert not await has_tentative(turn)
