"""Real machines in directories of their own; what a test leaves running fails it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from kvmctl import Machine, Pool, Roots, Template, create_template
from kvmctl.plan.model import Network, QmpStep
from kvmctl.runtime import store
from kvmctl.spec.load import from_mapping


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Roots]:
    """The directories of a user who has no machines; probe replies are kept between tests, as on any host."""
    cache = pytestconfig.cache
    assert cache is not None
    for part in ("CONFIG", "STATE", "RUNTIME"):
        monkeypatch.setenv(f"KVMCTL_{part}_DIR", str(tmp_path / part.lower()))
    monkeypatch.setenv("KVMCTL_CACHE_DIR", str(cache.mkdir("kvmctl")))
    yield store.find_roots()
    leaked = end_all(str(tmp_path))
    assert not leaked, f"left running: {leaked}"


def end_all(word: str) -> list[str]:
    """Kill the QEMUs with `word` on their command line; what they were."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if command and "qemu" in command[0] and any(word in argument for argument in command):
                found.append(f"{process.pid} {' '.join(command)[:200]}")
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=10)
    return found


def qemus(roots: Roots) -> list[psutil.Process]:
    """The QEMUs of this test, wherever they come from."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(word.startswith("guest=") for word in words) and any(roots.runtime in word for word in words):
            found.append(process)
    return found


def tiny(name: str = "web", *, cmdline: str = "", **tables: Any) -> Machine:
    """The tiny guest as a machine of this name; `cmdline` makes it behave as kvmctl.guest.tiny.WORDS says."""
    spec = {
        "name": name,
        "memory": "16MiB",
        "balloon": False,
        "rng": False,
        "firmware": "qboot.rom",
        "agent": {"transport": "serial"},
        "boot": {"kernel": "builtin:tiny", "cmdline": cmdline},
        **tables,
    }
    return from_mapping(spec, source=f"{name}.toml", base=os.getcwd())


async def frozen_tiny(machine: Machine | None = None, *, refresh: bool = False) -> Template:
    """The template `small` of the tiny guest, frozen when it has said READY."""
    return await create_template("small", machine or tiny(), until="console:^READY", refresh=refresh)


def give_card(template: Template, *, driver: str) -> None:
    """Have the forks of `template` get a card of their own, which leads nowhere: that takes no privilege."""
    plan = template.record.plan
    step = QmpStep("device_add", {"driver": driver, "id": "own", "bus": "spare0"}, why="networks[1]")
    networks = (*plan.networks, Network("own", "none", None))
    template.record = template.record._replace(plan=plan._replace(after_renewal=(step,), networks=networks))


async def use_a_pool() -> None:
    """Have a fork out of a pool, and ask what it is doing."""
    async with Pool(await frozen_tiny(), size=2) as pool, pool.lease() as fork:
        await fork.status()
