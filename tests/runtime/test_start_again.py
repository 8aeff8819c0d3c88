"""A start in the place of an earlier run: what that left is there until the start succeeds, and in the history then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kvmctl
from kvmctl import ExitReason, Roots
from kvmctl.plan.model import QmpStep
from kvmctl.runtime import history, listing
from kvmctl.runtime.begin import begin

from .conftest import frozen_tiny, tiny
from .scripts import run_script

pytestmark = [pytest.mark.qemu]

UNKNOWN = QmpStep("no-such-command", {}, why="nothing")
REFUSED = ["-device", "no-such-device"]


@pytest.fixture
async def ended(roots: Roots) -> dict[str, bytes]:
    """Machine `web` has run, and was killed: what its run directory holds."""
    async with await kvmctl.start(tiny()) as vm:
        await vm.wait_for_console("^READY")
    kvmctl.kill("web")
    return contents(roots)


def contents(roots: Roots) -> dict[str, bytes]:
    run = Path(roots.machine("web").run)
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def check_known(roots: Roots, ended: dict[str, bytes]) -> None:
    (machine,) = kvmctl.list_machines(include_stopped=True)
    assert machine.exit is not None
    assert machine.exit.reason is ExitReason.KILLED
    assert contents(roots) == ended
    assert b"READY" in ended["console.log"]


async def test_a_start_that_is_refused_beforehand_leaves_the_last_run(
    roots: Roots, ended: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(kvmctl.NotFound):
        await kvmctl.start(tiny(disks=[{"path": str(tmp_path / "gone.img"), "format": "raw"}]))
    check_known(roots, ended)
    assert not os.path.exists(roots.machine("web").state)


async def test_a_start_that_qemu_refuses_leaves_the_last_run_and_says_why(
    roots: Roots, ended: dict[str, bytes]
) -> None:
    for _ in range(2):
        with pytest.raises(kvmctl.LaunchFailed) as caught:
            await kvmctl.start(tiny(extra_args=REFUSED))
        assert "no-such-device" in caught.value.detail
        check_known(roots, ended)


async def test_a_start_that_fails_when_qemu_is_up_leaves_the_last_run(roots: Roots, ended: dict[str, bytes]) -> None:
    prepared = kvmctl.prepare(tiny())
    beginning = begin(prepared.plan, prepared.paths, is_captive=False)
    assert beginning.fail(KeyboardInterrupt()).__class__ is KeyboardInterrupt
    check_known(roots, ended)


async def test_what_a_start_left_that_was_killed_when_it_had_succeeded_is_never_put_back(
    roots: Roots, ended: dict[str, bytes]
) -> None:
    before = Path(roots.machine("web").before)
    before.mkdir()
    (before / "plan.json").write_text("of the run before the last")
    with pytest.raises(kvmctl.LaunchFailed):
        await kvmctl.start(tiny(extra_args=REFUSED))
    check_known(roots, ended)


async def test_the_last_run_is_in_the_history_once_the_next_one_runs(roots: Roots, ended: dict[str, bytes]) -> None:
    with pytest.raises(kvmctl.LaunchFailed):
        await kvmctl.start(tiny(extra_args=REFUSED))  # which has written it down already
    paths = roots.machine("web")
    async with await kvmctl.start(tiny()):
        assert len(Path(paths.history).read_text().splitlines()) == 1
        assert not os.path.exists(paths.before)
        os.rename(paths.journal, f"{paths.journal}.away")
        end = history.read_last_exit(paths)
        os.rename(f"{paths.journal}.away", paths.journal)
    assert end is not None
    assert end.reason is ExitReason.KILLED
    kvmctl.kill("web")
    kvmctl.remove("web")
    assert kvmctl.list_machines(include_stopped=True) == []


async def test_a_machine_that_keeps_nothing_leaves_the_last_run_that_was_kept(
    roots: Roots, ended: dict[str, bytes]
) -> None:
    async with kvmctl.launch(tiny(), name="web") as vm:
        assert "before" in os.listdir(vm.paths.run)
    check_known(roots, ended)


async def test_a_fork_that_fails_leaves_the_last_run(roots: Roots, ended: dict[str, bytes]) -> None:
    template = await frozen_tiny()
    template.record = template.record._replace(plan=template.record.plan._replace(before_run=(UNKNOWN,)))
    with pytest.raises(kvmctl.QmpError):
        await template.fork_detached(["web"])
    check_known(roots, ended)


async def test_what_is_kept_of_a_machine_whose_run_is_gone_is_listed_and_can_be_removed(
    roots: Roots, ended: dict[str, bytes]
) -> None:
    with pytest.raises(kvmctl.LaunchFailed):
        await kvmctl.start(tiny(extra_args=REFUSED))  # which makes a history
    os.rename(roots.machine("web").run, f"{roots.runtime}/.gone")  # as by a reboot
    assert kvmctl.list_machines() == []
    (machine,) = kvmctl.list_machines(include_stopped=True)
    assert machine.exit is not None
    assert (machine.state, machine.exit.reason) == (kvmctl.State.STOPPED, ExitReason.KILLED)
    assert listing.how_to_start("web", roots) == "kvmctl start FILE --name web"
    with pytest.raises(kvmctl.NotFound, match="no spec of its own") as caught:
        await kvmctl.start("web")
    assert "kvmctl rm web" in caught.value.hint
    assert kvmctl.remove("web") == [roots.machine("web").state]
    assert kvmctl.list_machines(include_stopped=True) == []


CUT_OFF_ANYWHERE = """
from itertools import count
from pathlib import Path
from kvmctl.runtime import store

roots = store.find_roots()
paths = roots.machine("web")
NAMES = ["console.log", "journal.jsonl", "plan.json", "secrets"]

def fill(text):
    os.makedirs(f"{paths.run}/secrets")
    for name in NAMES[:3]:
        Path(paths.run, name).write_text(text)

def run_until(step):
    child = os.fork()
    if child == 0:
        seen = count(1)
        sys.addaudithook(lambda event, args: os.kill(os.getpid(), 9) if next(seen) == step else None)
        claim = store.claim(paths, is_captive=False)
        fill("of the next")
        claim.abandon()
        os._exit(0)
    return os.WIFEXITED(os.waitpid(child, 0)[1])

fill("of the last")
for step in count(1):
    has_ended = run_until(step)
    store.sweep(roots)
    assert sorted({*os.listdir(paths.run)} - {"lock", "before.part"}) == NAMES, (step, os.listdir(paths.run))
    for name in NAMES[:3]:
        assert Path(paths.run, name).read_text() == "of the last", (step, name)
    if has_ended:
        break
print("steps", step)
"""


def test_setting_aside_that_was_cut_off_anywhere_is_put_right(roots: Roots) -> None:
    said = run_script(CUT_OFF_ANYWHERE)
    assert int(said.split()[1]) > 25
