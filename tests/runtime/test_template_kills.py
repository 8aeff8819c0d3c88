"""SIGKILL in the middle of making templates and forks: nothing half-made is ever listed, the next command sweeps."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

import kvmctl
from kvmctl import Roots
from kvmctl.runtime import unfinished

from .conftest import frozen_tiny, qemus, tiny
from .scripts import run_killed

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("roots")]

ROOT = Path(__file__).parents[2]
STOPS = {
    "before it is claimed": "kvmctl.runtime.unfinished:make",
    "before QEMU is started": "kvmctl.runtime.spawn:_exec",
    "when the guest is up": "kvmctl.runtime.frozen:freeze",
    "when it is frozen": "kvmctl.runtime.making:_seal",
    "before its record is written": "kvmctl.runtime.template_record:Record.dumps",
    "before it has its name": "kvmctl.runtime.unfinished:finish",
}
"""Functions in the way of a template, by what they stand before."""
FORK_STOPS = {
    "before the first is started": "kvmctl.runtime.forking:begin",
    "when the first is loaded": "kvmctl.runtime.raising:_read_times",
    "before the first is let go": "kvmctl.runtime.raising:Raised.let_go",
}
KILL = """
import asyncio, importlib, os, signal, sys
module, _, name = {where!r}.partition(":")
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
setattr(owner, last, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
sys.path.insert(0, {tests!r})
import kvmctl
from runtime.conftest import frozen_tiny, use_a_pool
asyncio.run({work})
"""
MAKE = """
import asyncio, sys
sys.path.insert(0, {tests!r})
import kvmctl
from runtime.conftest import frozen_tiny
print("imported", flush=True)
sys.stdin.read()
print(asyncio.run(frozen_tiny(refresh={refresh})).is_new)
"""


def killed(where: str, work: str) -> None:
    """A process that does `work` and is killed when it calls the function at `where`."""
    run_killed(KILL.format(where=where, work=work, tests=str(ROOT / "tests")))


@pytest.mark.parametrize("stop", STOPS)
async def test_a_maker_that_is_killed_leaves_no_template_and_nothing_after_the_next_command(
    roots: Roots, stop: str
) -> None:
    killed(STOPS[stop], "frozen_tiny()")
    assert kvmctl.template_names() == []
    assert kvmctl.list_templates() == []
    assert kvmctl.list_machines(include_stopped=True) == []
    psutil.wait_procs(qemus(roots), timeout=10)  # the kernel is at it
    assert not qemus(roots)
    assert not os.path.exists(roots.templates) or os.listdir(roots.templates) == []
    assert not os.path.exists(roots.runtime) or os.listdir(roots.runtime) == []
    assert (await frozen_tiny()).is_new


@pytest.mark.parametrize("stop", FORK_STOPS)
async def test_who_is_killed_in_the_middle_of_many_forks_leaves_none(roots: Roots, stop: str) -> None:
    await frozen_tiny(tiny(disks=[{"size": "1MiB"}]))
    killed(FORK_STOPS[stop], 'kvmctl.load_template("small").fork_detached([f"f{n}" for n in range(20)])')
    assert kvmctl.list_machines() == []
    assert not qemus(roots)
    assert os.listdir(roots.runtime) == []
    assert os.listdir(roots.state) == ["templates"] or os.listdir(roots.ephemeral) == []
    assert not kvmctl.list_templates()[0].in_use


async def test_forks_and_pools_end_with_the_program_that_has_them(roots: Roots) -> None:
    await frozen_tiny()
    killed("kvmctl.runtime.vm:Vm.status", "use_a_pool()")
    psutil.wait_procs(qemus(roots), timeout=10)
    assert not qemus(roots)
    assert kvmctl.list_machines() == []
    assert os.listdir(roots.runtime) == []


async def test_a_second_maker_waits_for_the_first_to_end(roots: Roots) -> None:
    paths = roots.unfinished_template("small")
    with unfinished.make(paths):
        second = asyncio.create_task(frozen_tiny())
        await waiting_for_a_lock()
        assert kvmctl.list_templates() == []
        assert os.path.isdir(paths.directory)
    assert (await second).is_new  # the first has made nothing
    assert not os.path.exists(paths.directory)


async def test_a_second_maker_that_is_told_to_stop_does_so_at_once(roots: Roots) -> None:
    with unfinished.make(roots.unfinished_template("small")):
        second = asyncio.create_task(frozen_tiny())
        await waiting_for_a_lock()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
    assert kvmctl.list_templates() == []


async def waiting_for_a_lock() -> None:
    """Until a thread of this process waits for who makes a template."""
    while not any(thread.name == "kvmctl-lock" for thread in threading.enumerate()):
        await asyncio.sleep(0)


@pytest.mark.parametrize("refresh", [False, True])
def test_two_processes_that_make_the_same_at_once_boot_it_once(roots: Roots, refresh: bool) -> None:
    program = MAKE.format(tests=str(ROOT / "tests"), refresh=refresh)
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "imported\n"
    for maker in makers:  # both are as far as this
        assert maker.stdin is not None
        maker.stdin.close()
        maker.stdin = None
    said = [maker.communicate(timeout=120)[0].strip() for maker in makers]
    assert sorted(said) == ["False", "True"]
    assert [info.problem for info in kvmctl.list_templates()] == [""]
    assert os.listdir(roots.runtime) == []
