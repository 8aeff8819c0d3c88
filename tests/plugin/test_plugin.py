"""The pytest plugin as its users meet it: in runs of pytest of their own, with the guest that ships with kvmctl."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

import kvmctl

from .conftest import PYTEST, Run, running

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.qemu

ONE = """
def test_one(vm):
    assert vm.vm.is_alive
"""
TWO_NAMES = """
import pytest

names = []

@pytest.mark.parametrize("number", range(2))
def test_each(vm, number):
    names.append(vm.name)
    assert len(set(names)) == len(names) == number + 1
    assert vm.name.startswith(f"test-each-{number}")
"""


def test_every_test_has_a_machine_of_its_own_and_nothing_is_left(
    pytester: pytest.Pytester, run: Run, directories: Path
) -> None:
    pytester.makepyfile(TWO_NAMES)
    run().assert_outcomes(passed=2)
    assert running(directories) == []
    (name,) = kvmctl.template_names()
    assert name.startswith("pytest-tiny-")


def test_the_next_run_finds_the_template_of_the_one_before(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(ONE)
    stamps = []
    for _ in range(2):
        run().assert_outcomes(passed=1)
        (name,) = kvmctl.template_names()
        stamps.append(kvmctl.find_template(name).record)
    assert stamps[0] == stamps[1]


def test_a_template_that_does_not_fit_any_more_is_made_anew(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(ONE)
    run().assert_outcomes(passed=1)
    (info,) = kvmctl.list_templates()
    os.truncate(Path(info.directory) / "device-state", 10)
    run().assert_outcomes(passed=1)
    (again,) = kvmctl.list_templates()
    assert not again.problem


def test_suites_without_machines_import_nothing_of_kvmctl(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_imports():
            ours = {name for name in sys.modules if name.startswith("kvmctl")}
            assert ours <= {"kvmctl", "kvmctl.testing", "kvmctl.testing.plugin", "kvmctl.testing.blueprint"}
            assert not {"pydantic", "asyncio", "psutil", "qemu", "tomlkit"} & set(sys.modules)
    """)
    others = [word for name in ("asyncio", "xdist", "timeout", "anyio") for word in ("-p", f"no:{name}")]
    pytester.run(*PYTEST, *others, timeout=100).assert_outcomes(passed=1)


def test_markers_change_the_spec_the_nearer_one_last(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.vm(memory="24MiB", boot={"cmdline": "deaf"})

        def memory(guest):
            return guest.vm.plan.memory >> 20

        def test_of_the_module(vm):
            assert memory(vm) == 24
            assert vm.vm.plan.spec["boot"]["kernel"] == "builtin:tiny"
            assert vm.vm.plan.spec["boot"]["cmdline"] == "deaf"

        @pytest.mark.vm(memory="32MiB", until="console:^READY")
        def test_of_its_own(vm, vm_factory):
            assert memory(vm) == 32
            assert memory(vm_factory()) == 16
            assert memory(vm_factory(memory="20MiB")) == 20
    """)
    run().assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("marker", "words"),
    {
        '"tiny"': "takes keywords only, as spec='tiny'",
        'memory="lots"': "memory:",
        'colour="red"': "colour:",
        'spec="nosuch.toml"': "there is no machine spec",
        'spec="nosuch"': "nosuch",
        'until="christmas"': "'christmas' is nothing to wait for",
    }.items(),
)
def test_a_wrong_marker_is_told(pytester: pytest.Pytester, run: Run, marker: str, words: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.vm({marker})\ndef test_it(vm): pass")
    result = run()
    result.assert_outcomes(errors=1)
    assert words in result.stdout.str()


def test_the_template_is_what_a_conftest_says(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest("""
        import pytest
        from kvmctl.testing import Blueprint

        @pytest.fixture(scope="session")
        def vm_template():
            return Blueprint("tiny", until="console:^READY", keys={"memory": "20MiB"})
    """)
    pytester.makepyfile("""
        import pytest

        def test_it(vm):
            assert vm.vm.plan.memory == 20 << 20

        @pytest.mark.vm(cpus=2)
        def test_with_more(vm):
            assert (vm.vm.plan.memory, vm.vm.plan.cpus) == (20 << 20, 2)
    """)
    run().assert_outcomes(passed=2)


def test_what_no_machine_can_be_made_from_is_told(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def vm_template():
            return 7

        def test_it(vm): pass
    """)
    result = run()
    result.assert_outcomes(errors=1)
    assert "7 is nothing to make machines from" in result.stdout.str()


def test_a_template_that_was_made_before_can_be_used(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest("""
        import asyncio, pytest, kvmctl

        @pytest.fixture(scope="session")
        def vm_template():
            return asyncio.run(kvmctl.create_template("mine", "tiny"))
    """)
    pytester.makepyfile("""
        import pytest

        def test_it(vm):
            assert vm.vm.is_alive

        @pytest.mark.vm(cpus=2)
        def test_other(vm): pass
    """)
    result = run()
    result.assert_outcomes(passed=1, errors=1)
    assert "template 'mine' is made already, and can't be had with other 'cpus'" in result.stdout.str()


def test_the_spec_of_the_command_line_and_of_the_configuration(pytester: pytest.Pytester, run: Run) -> None:
    small = kvmctl.find_spec("tiny")
    (pytester.path / "mine.toml").write_text(Path(small).read_text().replace('"16MiB"', '"20MiB"'))
    (pytester.path / "yours.toml").write_text(Path(small).read_text().replace('"16MiB"', '"24MiB"'))
    pytester.makeini("[pytest]\nvm_spec = mine.toml")
    pytester.makepyfile("import os\ndef test_it(vm): assert vm.vm.plan.memory >> 20 == int(os.environ['EXPECTED'])")
    os.environ["EXPECTED"] = "20"
    try:
        run().assert_outcomes(passed=1)
        os.environ["EXPECTED"] = "24"
        run("--vm-spec", "yours.toml").assert_outcomes(passed=1)
    finally:
        del os.environ["EXPECTED"]


def test_a_failed_test_tells_of_its_machines_and_keeps_that(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.vm(video="std")
        def test_it(vm):
            vm.send_console("u")
            vm.wait_for_console_text("uptime=")
            vm.wait_for_console_text("never", timeout=0.2)
    """)
    result = run("--vm-artifacts", "kept")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*vm: verdict*",
            "DeadlineExceeded: machine 'test-it-*': gave up after 0.2 s: wait for 'never' on the console",
            "verdict: unknown: *",
            "*vm test-it-*: state*",
            "running, process *",
            "*vm test-it-*: verdict*",
            "unknown: nothing that is known to go wrong*",
            "*vm test-it-*: console, its end*",
            "*uptime=*",
            "*vm test-it-*: journal, its end*",
            "*RESUME*",
            "*vm test-it-*: plan*",
            "*qemu-system-x86_64",
            "*vm test-it-*: kept in*",
        ]
    )
    (place,) = (pytester.path / "kept").glob("*/test-it-*")
    assert {path.name for path in place.iterdir()} == {
        "console.log", "journal.jsonl", "plan.json", "qemu.log", "screenshot.png", "state.txt", "verdict.txt",
    }  # fmt: skip
    assert (place / "screenshot.png").read_bytes().startswith(b"\x89PNG")
    assert "uptime=" in (place / "console.log").read_text()
    assert (place / "verdict.txt").read_text().startswith("unknown: ")


def test_a_machine_that_ended_is_said_to_have_and_how(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        def test_it(vm):
            vm.send_console("q")
            vm.wait_for_console_text("never")
    """)
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["NotRunning: machine 'test-it-*", "*vm test-it-*: state*", "ended: guest-shutdown*"])


def test_machines_of_failed_tests_are_left_running_where_that_is_asked_for(
    pytester: pytest.Pytester, run: Run, directories: Path
) -> None:
    pytester.makepyfile("""
        def test_good(vm): pass

        def test_bad(vm): assert False
    """)
    result = run("--vm-keep-failed")
    result.assert_outcomes(passed=1, failed=1)
    (name,) = running(directories)
    assert name.startswith("test-bad-")
    result.stdout.fnmatch_lines(
        ["*machines left running*", f"{name}: kvmctl console {name}; kvmctl exec {name} -- sh*"]
    )
    kvmctl.kill(name)
    kvmctl.remove(name)
    assert running(directories) == []


def test_nothing_is_forked_where_that_is_asked_for(pytester: pytest.Pytester, run: Run, directories: Path) -> None:
    pytester.makepyfile("""
        def test_it(vm):
            assert type(vm.vm).__name__ == "Vm"
            assert "READY" in vm.vm.console_text()

        def test_kept(vm): assert False
    """)
    run("--vm-cold").assert_outcomes(passed=1, failed=1)
    assert kvmctl.template_names() == []
    run("--vm-cold", "--vm-keep-failed").assert_outcomes(passed=1, failed=1)
    (name,) = running(directories)
    kvmctl.kill(name)
    kvmctl.remove(name)


def test_workers_make_the_template_once(pytester: pytest.Pytester, run: Run, directories: Path) -> None:
    pytester.makeconftest("""
        import os, pathlib
        from kvmctl.runtime import making

        def boot(*args, _real=making._boot_and_freeze, **kwargs):
            with pathlib.Path(os.environ["MADE"]).open("a") as file:
                file.write("made\\n")
            return _real(*args, **kwargs)

        making._boot_and_freeze = boot
    """)
    pytester.makepyfile(
        "import pytest\n@pytest.mark.parametrize('n', range(6))\ndef test_it(vm, n): assert vm.vm.is_alive"
    )
    made = pytester.path / "made"
    os.environ["MADE"] = str(made)
    try:
        run("-n", "2").assert_outcomes(passed=6)
    finally:
        del os.environ["MADE"]
    assert made.read_text() == "made\n"
    assert running(directories) == []


def test_a_machine_that_a_test_leaves_running_fails_it_and_is_ended(
    pytester: pytest.Pytester, run: Run, directories: Path
) -> None:
    pytester.makepyfile("""
        import asyncio, kvmctl

        def test_leaks(vm):
            asyncio.run(kvmctl.start("tiny", name="leaked")).__class__

        def test_next(vm): pass
    """)
    result = run("-W", "ignore")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test has left behind:", "  process *guest=leaked*"])


def test_a_machine_of_a_fixture_for_several_tests_is_no_leak(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import subprocess, sys, pytest

        def kvmctl(*words):
            subprocess.run([sys.executable, "-m", "kvmctl", *words], check=True)

        @pytest.fixture(scope="module")
        def shared():
            kvmctl("start", "tiny")
            yield
            kvmctl("kill", "tiny")
            kvmctl("rm", "tiny", "--yes")

        def test_one(vm, shared): pass

        def test_two(shared, vm): pass
    """)
    run().assert_outcomes(passed=2)


@pytest.mark.skipif(os.geteuid() != 0, reason="taps that stay are made by root only")
def test_a_tap_that_a_test_leaves_fails_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import subprocess

        def test_leaks(vm):
            subprocess.run(["ip", "tuntap", "add", "dev", "left0", "mode", "tap"], check=True)
    """)
    command = ["unshare", "--net", "--mount", "sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh"]
    result = pytester.run(*command, *PYTEST, timeout=100)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the test has left behind:", "  tap left0"])


def test_nothing_outlives_a_run_that_is_killed(pytester: pytest.Pytester, directories: Path) -> None:
    pytester.makepyfile("""
        import pathlib, threading

        def test_it(vm, vm_factory):
            vm_factory()
            pathlib.Path("ready").write_text("")
            threading.Event().wait()
    """)
    silent = subprocess.DEVNULL
    with subprocess.Popen(PYTEST, cwd=pytester.path, stdin=silent, stdout=silent, stderr=silent) as process:
        ready = pytester.path / "ready"
        deadline = time.monotonic() + 100
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        machines = [child for child in psutil.Process(process.pid).children() if child.name().startswith("qemu")]
        assert len(machines) == 2
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(machines, timeout=10)
    assert not alive
    kvmctl.list_machines()
    assert running(directories) == []


def test_an_interrupted_run_gives_its_machines_back(pytester: pytest.Pytester, directories: Path) -> None:
    pytester.makepyfile("""
        import os, signal, threading

        def test_it(vm):
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
            vm.wait_for_console_text("never")
    """)
    result = pytester.run(*PYTEST, timeout=100)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert running(directories) == []


def test_async_tests_have_the_same_machines(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import asyncio, pytest, kvmctl

        pytestmark = pytest.mark.asyncio

        async def test_one(async_vm):
            await async_vm.send_console("u")
            assert "uptime=" in await async_vm.wait_for_console_text("uptime=")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await async_vm.wait_for_console_text("never")

        async def test_several(async_vm_factory):
            first, second = await asyncio.gather(async_vm_factory(), async_vm_factory(memory="20MiB"))
            await first.crash()
            assert not first.vm.is_alive
            assert second.vm.is_alive
    """)
    run("-o", "asyncio_mode=strict").assert_outcomes(passed=2)
