"""A plain fork of a Linux guest is renewed before it is there for anybody, as all forks are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.guest.renewal import Renewal
from kvmctl.runtime import forking, quickraise, raising
from kvmctl.runtime.journal import read_events

pytestmark = [pytest.mark.linux, pytest.mark.slow, pytest.mark.usefixtures("roots")]

ROOT = Path(__file__).parents[2]
SPEC = str(ROOT / "machines/small-linux.toml")


@pytest.fixture(scope="session", autouse=True)
def guest() -> None:
    built = subprocess.run([sys.executable, ROOT / "scripts/build-guest"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")


async def fork_quickly(name: str) -> None:
    assert await asyncio.to_thread(kvmctl.fork_quickly, "small", name=name)


async def fork_in_asyncio(name: str) -> None:
    await kvmctl.load_template("small").fork_detached([name])


async def test_it_has_random_numbers_and_a_clock_of_its_own(roots: Roots) -> None:
    await kvmctl.create_template("small", SPEC)
    seen, told = [], []
    for name, fork in (("one", fork_quickly), ("two", fork_quickly), ("three", fork_in_asyncio)):
        await fork(name)
        told.append([(event.name, event.data) for event in read_events(roots.machine(name))])
        async with kvmctl.attach(name) as vm:
            result = await vm.exec(["sh", "-c", "date +%s; head -c 32 /dev/urandom | od -An -tx1"])
            now, random = result.stdout.decode().split(maxsplit=1)
            assert abs(int(now) - time.time()) < 10
            seen.append(random)
            await vm.kill()
        kvmctl.remove(name)
    assert len(set(seen)) == 3
    given = (forking.FORKED, {"template": "small", "renewed": ["random", "clock"]})
    for events in told:
        names = [name for name, _ in events]
        assert given in events
        assert names.index("RESUME") < names.index(forking.FORKED)
    upto = [events[: events.index(given)] for events in told]
    assert upto[0] == upto[2]


async def test_one_whose_guest_cannot_be_renewed_is_not_there(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    await kvmctl.create_template("small", SPEC)
    said = []
    for module, fork in ((quickraise, fork_quickly), (raising, fork_in_asyncio)):
        monkeypatch.setattr(module, "renewal", lambda *_: Renewal(time.time_ns(), b""))
        with pytest.raises(kvmctl.AgentError, match="the program that renews the guest was told too little") as caught:
            await fork("one")
        said.append((caught.value.summary, caught.value.detail, caught.value.hint))
        assert kvmctl.list_machines(include_stopped=True) == []
        assert not kvmctl.list_templates()[0].in_use
    assert said[0] == said[1]
