"""Programs that use the library, whole: whatever ends them, nothing is left, and nothing is said that they did not say.

They run with every warning an error, and with Python and asyncio looking for mistakes (``-X dev``).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import kvmctl
from kvmctl import Roots

from .conftest import end_all
from .scripts import PRELUDE

pytestmark = [pytest.mark.qemu, pytest.mark.slow]


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", *(arguments or ("-c", PRELUDE + program))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, *arguments: str) -> str:
    """What a program prints that ends well and complains of nothing."""
    process = start(program, *arguments)
    said, complaints = process.communicate(timeout=120)
    # asyncio notes every step that takes longer than 0.1 s, such as the first import of all there is.
    complaints = "".join(line for line in complaints.splitlines(keepends=True) if not line.startswith("Executing <"))
    assert (process.returncode, complaints) == (0, "")
    return said


def wait_gone(pid: int) -> None:
    """Wait until the process, which was told to end or has lost its parent, is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], 10)[0], f"process {pid} is still there"
    finally:
        os.close(pidfd)


@pytest.fixture(autouse=True)
def nothing_left(roots: Roots) -> object:
    yield
    assert kvmctl.list_machines(include_stopped=True) == []
    assert end_all(roots.runtime) == []
    assert not os.path.exists(roots.runtime) or os.listdir(roots.runtime) == []


def test_a_test_case_of_unittest(tmp_path: Path) -> None:
    program = """
import unittest

class Boots(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.vm = await self.enterAsyncContext(kvmctl.launch(tiny()))

    async def test_ready(self):
        self.assertIn("READY", await self.vm.wait_for_console("READY"))

    async def test_stops(self):
        await self.vm.wait_for_agent()
        self.assertEqual((await kvmctl.stop(self.vm)).exit.reason, "guest-shutdown")

unittest.main(argv=["boots"], testRunner=unittest.TextTestRunner(stream=sys.stdout))
"""
    assert "Ran 2 tests" in run(program)


PYTEST_INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
HARNESS = """
import pytest
import kvmctl

@pytest.fixture
async def vm():
    async with kvmctl.launch("tiny") as vm:
        await vm.wait_for_agent()
        yield vm

@pytest.mark.parametrize("number", range(4))
async def test_it_answers(vm, number):
    assert (await vm.status()).state is kvmctl.State.RUNNING
    await vm.pause()
    await vm.resume()
"""


@pytest.fixture
def harness(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    (tmp_path / "test_harness.py").write_text(HARNESS)
    return tmp_path


def test_fixtures_of_pytest_in_two_workers(harness: Path) -> None:
    said = run("", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--rootdir", str(harness), str(harness))
    assert "4 passed" in said


def test_a_pytest_that_is_killed_takes_its_machines_with_it(harness: Path) -> None:
    hanging = HARNESS.replace("await vm.pause()", "print('pid', vm.pid, flush=True); await vm.wait()")
    (harness / "test_harness.py").write_text(hanging)
    process = start("", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--rootdir", str(harness), str(harness))
    assert process.stdout is not None
    (pid,) = (int(line.split()[-1]) for line in process.stdout if "pid" in line and process.kill() is None)
    process.communicate()
    wait_gone(pid)


def test_a_synchronous_program_with_its_event_loop_in_a_thread() -> None:
    program = """
import threading
async def main():
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_console("READY")
        print((await vm.status()).state.value)
thread = threading.Thread(target=asyncio.run, args=(main(),))
thread.start()
thread.join()
asyncio.run(main())
"""
    assert run(program) == "running\nrunning\n"


def test_several_event_loops_in_threads_at_once() -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
async def main(number):
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_agent()
        return (await kvmctl.stop(vm)).exit.reason.value
with ThreadPoolExecutor(4) as pool:
    print(set(pool.map(lambda number: asyncio.run(main(number)), range(8))))
"""
    assert run(program) == "{'guest-shutdown'}\n"


def test_a_thread_that_ends_takes_the_machines_of_its_event_loop_with_it() -> None:
    program = """
import threading
def abandon():
    loop = asyncio.new_event_loop()
    context = kvmctl.launch(tiny())
    vm = loop.run_until_complete(context.__aenter__())
    print(vm.pid, flush=True)
    sys.stdout.flush()
    kept.extend((loop, context, vm))
kept = []
thread = threading.Thread(target=abandon)
thread.start()
thread.join()
while kept[2].is_alive:
    os.sched_yield()
os._exit(0)
"""
    wait_gone(int(run(program)))


def test_twenty_machines_in_one_task_group() -> None:
    program = """
async def boot(up):
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_agent()
        up.release()
        await all_up.wait()
        return vm.name
all_up = asyncio.Event()
async def main():
    up = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        booting = [group.create_task(boot(up)) for _ in range(20)]
        for _ in booting:
            await up.acquire()
        assert len(kvmctl.list_machines()) == 20
        all_up.set()
    print(len({task.result() for task in booting}))
asyncio.run(main())
"""
    assert run(program) == "20\n"


def test_one_that_fails_ends_those_beside_it() -> None:
    program = """
async def boot(fails):
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_console("READY")
        if fails:
            raise ValueError("mine")
        await vm.wait()
async def main():
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(boot(number == 3))
try:
    asyncio.run(main())
except* ValueError as group:
    print(group.exceptions)
"""
    assert run(program) == "(ValueError('mine'),)\n"


def test_what_the_body_raises_is_what_the_context_raises() -> None:
    program = """
async def main(error):
    async with kvmctl.launch(tiny()) as vm, kvmctl.launch(tiny()) as inner:
        raise error
for error in (ValueError("mine"), SystemExit(0), KeyboardInterrupt(), TimeoutError("mine"), GeneratorExit()):
    try:
        asyncio.run(main(error))
    except BaseException as caught:
        print(caught is error, error.__cause__, error.__context__)
"""
    assert run(program) == "True None None\n" * 5


IN_THE_BODY = """
async def main():
    async with kvmctl.launch(tiny()) as vm:
        print(vm.pid, flush=True)
        {body}
asyncio.run(main())
"""


def test_an_interrupt_from_the_keyboard_ends_it_all() -> None:
    process = start(IN_THE_BODY.format(body="await vm.wait()"))
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert complaints.rstrip().endswith("KeyboardInterrupt")
    assert "Warning" not in complaints
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("body", ["os._exit(7)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_program_that_ends_without_tidying_up_takes_its_machines_with_it(body: str) -> None:
    process = start(IN_THE_BODY.format(body=body))
    said, _ = process.communicate(timeout=30)
    wait_gone(int(said.split()[0]))


def test_a_fork_of_the_program_is_not_the_machines_owner() -> None:
    body = """
        if os.fork() == 0:
            try:
                vm.dispose().send(None)
            except StopIteration:
                os._exit(0)
            os._exit(1)
        assert os.wait()[1] == 0
        print((await vm.status()).state.value, vm.is_alive, os.path.exists(vm.paths.run))
"""
    assert run(IN_THE_BODY.format(body=body.strip())).splitlines()[-1] == "running True True"


def test_fifty_launches_use_up_nothing() -> None:
    program = """
import gc, psutil
async def once():
    async with kvmctl.launch(tiny()) as vm:
        await vm.wait_for_console("READY")
        async for event in vm.events():
            break
        async with kvmctl.attach(vm.name) as other:
            await other.status()
        await vm.quit()
def used():
    gc.collect()
    return os.listdir("/proc/self/fd"), psutil.Process().children(), len(asyncio.all_tasks()), len(gc.get_objects())
async def main():
    for _ in range(3):
        await once()
    before = used()
    for _ in range(50):
        await once()
    after = used()
    assert before[:3] == after[:3], (before, after)
    assert after[3] - before[3] < 200, after[3] - before[3]
asyncio.run(main())
"""
    run(program)
