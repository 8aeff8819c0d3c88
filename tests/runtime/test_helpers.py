"""Helper programs beside QEMU: there before it, gone with it, whoever dies and how."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.plan.model import Plan
from kvmctl.plan.option import jsonopt
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import store
from kvmctl.runtime.begin import begin
from kvmctl.runtime.helper_locks import find_helper
from kvmctl.runtime.start import run_plan, start_plan

from .conftest import tiny
from .helped import FAILING, STUBBORN, with_helper
from .scripts import run_script
from .start_scripts import START_FAILING_AT_EVERY_STEP, START_KILLED_AT_EVERY_STEP

pytestmark = [pytest.mark.qemu]


@pytest.fixture
def paths(roots: Roots) -> MachinePaths:
    return roots.machine("web")


@pytest.fixture
def bare(roots: Roots) -> Plan:
    """A plan without any helper."""
    return kvmctl.prepare(tiny()).plan


@pytest.fixture
def plan(bare: Plan, paths: MachinePaths) -> Plan:
    return with_helper(bare, paths)


@pytest.fixture(autouse=True)
def no_helper_is_left(roots: Roots) -> Iterator[None]:
    """Whatever was tried, no helper may outlive its machine."""
    yield
    left = helpers_of(roots.runtime)
    for process in left:
        process.kill()
    assert not left


def helpers_of(runtime: str) -> list[psutil.Process]:
    """The helpers of the machines whose run directories are there, by their command lines."""
    running = psutil.process_iter(["cmdline", "exe"])
    helpers = (process for process in running if process.info["exe"] == os.path.realpath(sys.executable))
    return [process for process in helpers if any(word.startswith(runtime) for word in process.info["cmdline"] or ())]


async def test_a_helper_lives_as_long_as_its_machine(plan: Plan, paths: MachinePaths) -> None:
    async with run_plan(plan, paths) as vm:
        await vm.wait_for_console("^READY")
        assert len(helpers_of(paths.run)) == 1
        assert not os.path.exists(paths.helper_socket("extra"))  # nobody else has any business there
    assert not helpers_of(paths.run)


async def test_a_helper_of_a_machine_that_goes_on_ends_when_it_is_stopped(plan: Plan, paths: MachinePaths) -> None:
    async with await start_plan(plan, paths):
        pass
    assert len(helpers_of(paths.run)) == 1
    kvmctl.force_stop("web")
    assert not helpers_of(paths.run)


async def test_a_helper_is_gone_once_its_qemu_is_killed(plan: Plan, paths: MachinePaths) -> None:
    async with await start_plan(plan, paths) as vm:
        helper = find_helper(paths)
        assert helper is not None
        os.kill(vm.pid, signal.SIGKILL)
        with helper:
            assert helper.wait(10)
        assert (await vm.wait()).reason is kvmctl.ExitReason.KILLED


async def test_a_helper_that_does_not_end_by_itself_is_killed(bare: Plan, paths: MachinePaths) -> None:
    async with await start_plan(with_helper(bare, paths, STUBBORN), paths) as vm:
        await vm.quit()
        assert not helpers_of(paths.run)


async def test_stopping_a_machine_leaves_the_helpers_of_its_next_run_alone(plan: Plan, paths: MachinePaths) -> None:
    async with await start_plan(plan, paths) as first:
        os.kill(first.pid, signal.SIGKILL)
        assert await first.ended_within(10)
        async with await start_plan(plan, paths):
            await first.wait()
            assert len(helpers_of(paths.run)) == 1
        kvmctl.force_stop("web")


async def test_the_last_words_of_a_helper_that_fails_are_quoted(bare: Plan, paths: MachinePaths) -> None:
    fragile = with_helper(bare, paths, FAILING)
    vhost = {"driver": "vhost-user-fs-pci", "chardev": "extra", "tag": "x"}
    broken = fragile._replace(options=(*fragile.options, jsonopt("device", vhost, why="test")))
    with pytest.raises(kvmctl.LaunchFailed, match=r"the helper of extras\[0\] exited with status 1") as caught:
        await start_plan(broken, paths)
    assert caught.value.detail == "no such luck"
    assert not os.path.exists(paths.run)


async def test_a_helper_that_is_not_there_fails_the_start(plan: Plan, paths: MachinePaths, tmp_path: Path) -> None:
    (helper,) = plan.helpers
    missing = plan._replace(helpers=(helper._replace(argv=(str(tmp_path / "gone"), *helper.argv[1:])),))
    with pytest.raises(kvmctl.LaunchFailed, match=r"cannot run the helper for extras\[0\]: No such file"):
        await start_plan(missing, paths)
    assert not os.path.exists(paths.run)


def test_a_helper_of_a_launcher_that_died_is_cleared_away_even_where_it_does_not_listen(
    bare: Plan, paths: MachinePaths
) -> None:
    launcher = os.fork()
    if launcher == 0:
        begin(with_helper(bare, paths, STUBBORN), paths, is_captive=False)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert len(helpers_of(paths.run)) == 1
    assert kvmctl.list_machines() == []
    assert not helpers_of(paths.run)
    assert not os.path.exists(paths.run)


def test_what_a_captive_machine_s_helper_serves_dies_with_the_owner(roots: Roots, paths: MachinePaths) -> None:
    script = """
from kvmctl.runtime.start import run_plan
prepared = kvmctl.prepare(tiny(), is_captive=True)
from tests.runtime.helped import with_helper
async def main():
    async with run_plan(with_helper(prepared.plan, prepared.paths), prepared.paths) as vm:
        await vm.wait_for_console("^READY")
        os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    with pytest.raises(AssertionError):
        run_script(script)
    helper = find_helper(paths)
    if helper is not None:
        with helper:
            assert helper.wait(10)
    store.sweep(roots)


@pytest.mark.slow
def test_a_launcher_killed_at_any_step_leaves_no_helper(roots: Roots) -> None:
    said = run_script(START_KILLED_AT_EVERY_STEP, "helped", seconds=240)
    assert int(said.split()[1]) > 70


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["interrupt", "error"])
def test_a_start_that_fails_at_any_step_leaves_no_helper(roots: Roots, fault: str) -> None:
    said = run_script(START_FAILING_AT_EVERY_STEP, fault, "helped", seconds=240)
    assert int(said.split()[1]) > 40
