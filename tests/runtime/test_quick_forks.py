"""A plain fork goes another way than those in asyncio, and is the same in everything but the time it takes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import kvmctl
from kvmctl import KvmctlError, Roots, Template
from kvmctl.plan.model import QmpStep
from kvmctl.plan.option import jsonopt
from kvmctl.runtime import deferred, forking, store
from kvmctl.runtime.begin import START_SECONDS
from kvmctl.runtime.journal import read_events

from .conftest import frozen_tiny, give_card, tiny
from .scripts import FORK_FAILING_AT_EVERY_STEP, FORK_KILLED_AT_EVERY_STEP, run_script

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("roots")]

Fault = Callable[[Template], object]


async def fork_quickly(name: str) -> None:
    assert await asyncio.to_thread(kvmctl.fork_quickly, "small", name=name)


async def fork_in_asyncio(name: str) -> None:
    await kvmctl.load_template("small").fork_detached([name])


async def refusal(fork: Callable[[str], object], name: str) -> tuple[object, ...]:
    """What is said where `name` can't be forked."""
    with pytest.raises(KvmctlError) as caught:
        await fork(name)  # type: ignore[misc]
    error = caught.value
    return type(error), error.summary, error.detail, error.hint


def end(name: str) -> None:
    kvmctl.kill(name)
    kvmctl.remove(name)


async def test_both_ways_make_the_same_machine_with_the_same_journal(roots: Roots) -> None:
    await frozen_tiny(tiny(disks=[{"size": "1MiB"}]))
    seen = []
    for fork in (fork_quickly, fork_in_asyncio):
        await fork("one")
        paths = roots.machine("one", ephemeral=True)
        plan = json.loads(Path(paths.plan).read_text())
        uuid = plan["uuid"]
        assert uuid[14] == "4"
        assert uuid[19] in "89ab"
        events = [(event.name, event.data) for event in read_events(paths)]
        files = sorted(
            os.path.relpath(os.path.join(folder, name), paths.run)
            for folder, _, names in os.walk(paths.run)
            for name in names
        )
        seen.append((Path(paths.plan).read_text().replace(uuid, "UUID"), events, files, os.listdir(paths.disks)))
        assert not os.path.exists(paths.tether)
        assert kvmctl.find_machine("one").state is kvmctl.State.RUNNING
        end("one")
    assert seen[0] == seen[1]
    assert "KVMCTL_FORKED" in [name for name, _ in seen[0][1]]


async def test_what_has_more_to_it_is_left_to_the_other_way(roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    template = await frozen_tiny()
    give_card(template, driver="virtio-net-pci")
    with_agent = (await frozen_tiny()).record._replace(renew=("/run/kvmctl-renew",))
    for record in (template.record, with_agent):
        Path(template.paths.record).write_text(record.dumps())
        assert not kvmctl.fork_quickly("small", name="one")
        assert kvmctl.list_machines(include_stopped=True) == []
        assert not os.path.exists(roots.machine("one").run)
        assert not kvmctl.list_templates()[0].in_use


# -- faults


def missing(name: str, template: Template) -> None:
    Path(template.paths.directory, name).unlink()


def altered(name: str, template: Template) -> None:
    path = Path(template.paths.directory, name)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def unreadable(template: Template) -> None:
    Path(template.paths.record).write_text("{}")


def refused_by_qemu(template: Template) -> None:
    """As where a QEMU that calls itself the same has lost a device."""
    plan = template.record.plan
    plan = plan._replace(options=(*plan.options, jsonopt("device", {"driver": "abacus"}, why="test")))
    Path(template.paths.record).write_text(template.record._replace(plan=plan).dumps())


def refused_by_its_monitor(template: Template) -> None:
    plan = template.record.plan
    plan = plan._replace(before_run=(*plan.before_run, QmpStep("abacus", {}, why="test")))
    Path(template.paths.record).write_text(template.record._replace(plan=plan).dumps())


def of_another_qemu(template: Template) -> None:
    source = template.record.source._replace(qemu_identity="other")
    Path(template.paths.record).write_text(template.record._replace(source=source).dumps())


def unloadable(template: Template) -> None:
    """As where the devices' state is of a machine that QEMU does not have any more: it is whole, and does not load."""
    path = Path(template.paths.device_state)
    altered("device-state", template)
    path.write_bytes(path.read_bytes()[:1000])
    files = {**template.record.files, "device-state": deferred.digest(str(path))}
    Path(template.paths.record).write_text(template.record._replace(files=files).dumps())


ASKED = 40
"""What a fork asks of the system is more than that, or the hook has missed it."""
FAULTS: dict[str, tuple[Fault, type[KvmctlError]]] = {
    "memory is missing": (partial(missing, "memory"), kvmctl.TemplateDamaged),
    "device state is missing": (partial(missing, "device-state"), kvmctl.TemplateDamaged),
    "lock is missing": (partial(missing, "lock"), kvmctl.NotFound),
    "record is missing": (partial(missing, "template.json"), kvmctl.TemplateDamaged),
    "memory is altered": (partial(altered, "memory"), kvmctl.TemplateDamaged),
    "record is unreadable": (unreadable, kvmctl.TemplateDamaged),
    "another QEMU": (of_another_qemu, kvmctl.TemplateMisfit),
    "state does not load": (unloadable, kvmctl.LaunchFailed),
    "QEMU refuses its command line": (refused_by_qemu, kvmctl.LaunchFailed),
    "QEMU refuses a word": (refused_by_its_monitor, kvmctl.QmpError),
    "name of a machine": (lambda _: kvmctl.create("one", {"memory": "16MiB"}), kvmctl.AlreadyRunning),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_both_ways_say_the_same_of_what_is_wrong_and_leave_nothing(roots: Roots, fault: str) -> None:
    spoil, kind = FAULTS[fault]
    spoil(await frozen_tiny())
    async with asyncio.timeout(START_SECONDS / 2):  # what is wrong is told when it is seen, and not when time is up
        quickly, in_asyncio = [await refusal(fork, "one") for fork in (fork_quickly, fork_in_asyncio)]
    assert quickly == in_asyncio
    assert quickly[0] is kind
    assert store.run_names(roots) == []
    assert not os.path.exists(roots.runtime) or os.listdir(roots.runtime) == []
    assert not any(info.in_use for info in kvmctl.list_templates())


@pytest.mark.parametrize("name", ["one", "../one", "none"])
async def test_both_ways_say_the_same_of_names(name: str) -> None:
    await frozen_tiny()
    await fork_quickly("one")
    try:
        if name == "none":
            with pytest.raises(kvmctl.NotFound, match="there is no template 'none'"):
                kvmctl.fork_quickly("none", name="two")
        else:
            assert await refusal(fork_quickly, name) == await refusal(fork_in_asyncio, name)
    finally:
        end("one")
    assert kvmctl.list_machines(include_stopped=True) == []


async def test_where_there_is_no_room_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    await frozen_tiny()
    monkeypatch.setattr(forking, "MEMORY", 1 << 50)
    for fork in (fork_quickly, fork_in_asyncio):
        with pytest.raises(kvmctl.HostError, match=r"1 forks take at least .* MiB of memory"):
            await fork("one")
    assert kvmctl.list_machines(include_stopped=True) == []


@pytest.mark.slow
def test_one_that_is_killed_at_any_step_is_never_half_there() -> None:
    said = run_script(FORK_KILLED_AT_EVERY_STEP)
    assert int(said.split()[1]) > ASKED


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["interrupt", "error"])
def test_one_that_fails_at_any_step_leaves_nothing(fault: str) -> None:
    said = run_script(FORK_FAILING_AT_EVERY_STEP, fault)
    assert int(said.split()[1]) > ASKED
