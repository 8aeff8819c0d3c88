"""What the plugin tells of machines that fail: of those that never become templates, and of those that boot cold."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import kvmctl

from .conftest import Run, running

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.qemu

KEPT = {"console.log", "journal.jsonl", "plan.json", "qemu.log", "state.txt", "verdict.txt"}
PANICS = """
import pytest

pytestmark = pytest.mark.vm(boot={"cmdline": "panic"}, until="console:never")

def test_one(vm): pass

def test_two(vm): pass
"""
NEVER_READY = """
import pytest

@pytest.mark.vm(until="console:never")
def test_it(vm): pass
"""


def kept(pytester: pytest.Pytester) -> Path:
    """The one directory of a machine that is kept."""
    (log,) = (pytester.path / "kept").rglob("console.log")
    assert {path.name for path in log.parent.iterdir()} == KEPT
    return log.parent


def test_a_template_whose_guest_panics_tells_each_test_and_is_kept(
    pytester: pytest.Pytester, run: Run, directories: Path
) -> None:
    pytester.makepyfile(PANICS)
    result = run("--vm-artifacts", "kept")
    result.assert_outcomes(errors=2)
    told = [
        "*vm: verdict*",
        "NotRunning: machine 'pytest-tiny-*' ended before *",
        "verdict: kernel-panic: *",
        "*vm pytest-tiny-*: state*",
        "ended: guest-panic *",
        "*vm pytest-tiny-*: verdict*",
        "kernel-panic: *",
        "*vm pytest-tiny-*: console, its end*",
        "PANIC",
        "*vm pytest-tiny-*: journal, its end*",
        "*GUEST_PANICKED*",
        "*vm pytest-tiny-*: plan*",
        "*qemu-system-x86_64",
        "*vm pytest-tiny-*: kept in*",
        "*vm pytest-tiny-*: how to get in*",
        "*pytest --vm-cold --vm-keep-failed",
    ]
    result.stdout.fnmatch_lines([*told, *told])
    place = kept(pytester)
    assert place.name.startswith("pytest-tiny-")
    assert "PANIC" in (place / "console.log").read_text()
    assert "GUEST_PANICKED" in (place / "journal.jsonl").read_text()
    assert (place / "verdict.txt").read_text().startswith("kernel-panic: ")
    assert running(directories) == []
    assert kvmctl.template_names() == []


def test_a_template_that_never_gets_ready_is_given_up_as_the_configuration_says(
    pytester: pytest.Pytester, run: Run, directories: Path
) -> None:
    pytester.makepyfile(NEVER_READY)
    pytester.makeini("[pytest]\nvm_patience = 0.5\nvm_artifacts = kept")
    below = pytester.mkdir("below")
    os.chdir(below)  # what the configuration says counts from where it is
    result = run(str(pytester.path))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "DeadlineExceeded: *gave up after 0.5 s: bring it to where it is frozen (console:never)",
            "the console's last line: READY",
            "verdict: unknown: *",
            "*vm pytest-tiny-*: state*",
            "running, process *",
        ]
    )
    assert "READY" in (kept(pytester) / "console.log").read_text()
    assert running(directories) == []


def test_the_patience_of_a_test_is_its_own_and_more_of_it_is_another_try(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.vm(until="console:^READY")

        @pytest.mark.vm(patience=0.000001)
        def test_impatient(vm): pass

        def test_patient(vm): pass

        @pytest.mark.vm(patience=-1)
        def test_wrong(vm): pass

        def test_again(vm_factory):
            vm_factory(until="console:^READY", patience=100)
    """)
    result = run("--vm-patience", "300")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*gave up after 1e-06 s: *", "*-1 is no patience to have*"])
    assert len(kvmctl.template_names()) == 1


def test_a_patience_that_is_no_number_is_told(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(NEVER_READY)
    result = run("--vm-patience", "soon")
    result.assert_outcomes(errors=1)
    assert "'soon' is no number of seconds" in result.stdout.str()


def test_a_machine_booted_cold_that_never_gets_ready_is_given_up_and_can_be_kept(
    pytester: pytest.Pytester, run: Run, directories: Path
) -> None:
    pytester.makepyfile(NEVER_READY)
    cold = ("--vm-cold", "--vm-patience", "0.5")
    result = run(*cold, "--vm-artifacts", "kept")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "DeadlineExceeded: *gave up after 0.5 s: bring it to where a test begins (console:never)",
            "verdict: unknown: *",
            "*vm test-it-*: state*",
            "running, process *",
        ]
    )
    assert "READY" in (kept(pytester) / "console.log").read_text()
    assert running(directories) == []
    result = run(*cold, "--vm-keep-failed")
    (name,) = running(directories)
    result.stdout.fnmatch_lines(["*machines left running*", f"{name}: kvmctl console {name}*"])
    kvmctl.kill(name)
    kvmctl.remove(name)


def test_a_qemu_that_refuses_to_start_tells_its_verdict(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.vm(extra_args=["-device", "nonsense"])
        def test_it(vm): pass
    """)
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*vm: verdict*", "LaunchFailed: *", "verdict: qemu-refused: *"])
    assert not re.search(r"-+ vm pytest-tiny", result.stdout.str())  # there was no machine
