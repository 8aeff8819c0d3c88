"""The machine of the next test, forked while one runs: whose it is, and that nothing of it is left."""

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


def test_the_next_tests_machine_is_made_while_one_runs(pytester: pytest.Pytester, run: Run, directories: Path) -> None:
    pytester.makepyfile("""
        def test_first(vm, _vm_lab):
            global ahead
            ahead = _vm_lab.ahead.name
            assert ahead.startswith("test-second-")

        def test_second(vm, _vm_lab):
            assert vm.name == ahead
            assert vm.vm.is_alive
            assert _vm_lab.ahead.name.startswith("test-third-")

        def test_third(vm, vm_factory, _vm_lab):
            assert _vm_lab.ahead.name == ""
            assert vm.name != vm_factory().name != ahead
    """)
    run().assert_outcomes(passed=3)
    assert running(directories) == []


def test_a_test_that_wants_another_machine_gets_it(pytester: pytest.Pytester, run: Run, directories: Path) -> None:
    pytester.makepyfile("""
        import pytest

        def test_first(vm, _vm_lab):
            assert _vm_lab.ahead.name == ""  # that template is still to be made, which is no small thing

        @pytest.mark.vm(memory="48MiB")
        def test_larger(vm, _vm_lab):
            assert vm.vm.plan.memory == 48 << 20
            assert _vm_lab.ahead.name

        def test_last(vm):
            assert vm.vm.plan.memory != 48 << 20
    """)
    run().assert_outcomes(passed=3)
    assert running(directories) == []


def test_a_test_that_has_another_template_gets_that(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_a="""
        def test_first(vm, _vm_lab):
            assert _vm_lab.ahead.name == ""
        """,
        test_b="""
        import pytest
        from kvmctl.testing import Blueprint

        @pytest.fixture(scope="session")
        def vm_template():
            return Blueprint(keys={"memory": "48MiB"})

        def test_second(vm):
            assert vm.vm.plan.memory == 48 << 20
        """,
    )
    run().assert_outcomes(passed=2)


def test_a_machine_that_nobody_asks_for_is_given_back(pytester: pytest.Pytester, run: Run, directories: Path) -> None:
    pytester.makepyfile("""
        import os, pytest

        @pytest.fixture
        def broken():
            raise RuntimeError("no")

        def test_first(vm): pass

        def test_broken(broken, vm): pass

        def test_after(_vm_machines, _vm_lab):
            names = [name for name in os.listdir(os.environ["KVMCTL_RUNTIME_DIR"]) if not name.startswith(".")]
            assert names == ([_vm_lab.ahead.name] if _vm_lab.ahead.name else [])

        def test_last(vm, _vm_lab):
            pytest.skip("no more")

        @pytest.mark.skip
        def test_skipped(vm): pass
    """)
    run().assert_outcomes(passed=2, errors=1, skipped=2)
    assert running(directories) == []


def test_a_machine_that_ends_before_its_test_begins_is_replaced(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import kvmctl

        def test_first(vm, _vm_lab):
            global ahead
            ahead = _vm_lab.ahead.name
            async def made():
                await _vm_lab.ahead._making
            _vm_lab.loop.run(made())
            kvmctl.kill(ahead)

        def test_second(vm):
            assert vm.name != ahead
            assert vm.vm.is_alive
    """)
    run().assert_outcomes(passed=2)


def test_it_ends_with_a_run_that_is_killed(pytester: pytest.Pytester, directories: Path) -> None:
    pytester.makepyfile("""
        import pathlib, threading

        def test_first(vm, _vm_lab):
            async def made():
                await _vm_lab.ahead._making
            _vm_lab.loop.run(made())
            pathlib.Path("ready").touch()
            threading.Event().wait()

        def test_second(vm): pass
    """)
    silent = subprocess.DEVNULL
    with subprocess.Popen(PYTEST, cwd=pytester.path, stdin=silent, stdout=silent, stderr=silent) as process:
        deadline = time.monotonic() + 100
        while not (pytester.path / "ready").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        machines = [child for child in psutil.Process(process.pid).children() if child.name().startswith("qemu")]
        assert len(machines) == 2
        os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(machines, timeout=10)
    assert not alive
    kvmctl.list_machines()
    assert running(directories) == []


def test_nothing_is_made_ahead_where_machines_are_booted_or_may_be_kept(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("options", [{"cold": True}, {"keep_failed": True}])
        def test_first(vm, vm_template, _vm_machines, _vm_lab, monkeypatch, options):
            from dataclasses import replace
            _vm_lab.loop.run(_vm_lab.ahead.drop())
            monkeypatch.setattr(_vm_lab, "settings", replace(_vm_lab.settings, **options))
            _vm_machines.look_ahead("test_x.py::test_x", vm_template, {})
            assert _vm_lab.ahead.name == ""
    """)
    run().assert_outcomes(passed=2)
