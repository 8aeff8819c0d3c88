"""What became of a machine is told from what it left behind: recorded consoles, journals and kernel logs."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmctl import Verdict, VerdictKind
from kvmctl.errors import ImageBusy, NotRunning
from kvmctl.runtime.events import Exit, ExitReason, State
from kvmctl.runtime.judge import Evidence, judge
from kvmctl.runtime.oom import find_oom_kill
from kvmctl.runtime.symptoms import LINES_SHOWN, plain
from kvmctl.runtime.verdict import judge_start

CONSOLES = Path(__file__).parents[1] / "data" / "consoles"
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((CONSOLES / "verdicts.toml").read_text())
RUNNING = Evidence("web", State.RUNNING, has_agent=True)
PANIC = "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"


def console(name: str) -> str:
    return (CONSOLES / f"{name}.log").read_bytes().decode(errors="replace")


def test_every_recorded_console_has_its_verdict() -> None:
    assert {path.stem for path in CONSOLES.glob("*.log")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_console_is_understood(name: str) -> None:
    expected = EXPECTED[name]
    found = judge(replace(RUNNING, console=console(name), agent_open=expected.get("agent_open", False)))

    assert found.kind == expected["kind"], found
    for words in expected["evidence"]:
        assert any(words in line for line in found.evidence), found
    assert len(found.evidence) <= LINES_SHOWN


@pytest.mark.parametrize("name", EXPECTED)
def test_a_console_that_is_cut_after_any_line_is_never_taken_for_something_else(name: str) -> None:
    lines = console(name).splitlines(keepends=True)
    allowed = {VerdictKind(EXPECTED[name]["kind"]), VerdictKind.AGENT_ABSENT, VerdictKind.SILENT}
    for count in range(0, len(lines), max(1, len(lines) // 60)):
        assert judge(replace(RUNNING, console="".join(lines[:count]))).kind in allowed


def test_what_was_wrong_before_a_boot_that_went_well_is_over() -> None:
    text = f"{console('kernel-no-root')}\n{console('small-healthy')}"
    assert judge(replace(RUNNING, console=text, agent_open=True)).kind is VerdictKind.HEALTHY


def test_a_qemu_that_was_halted_is_why_nothing_comes_whatever_the_console_says() -> None:
    found = judge(replace(RUNNING, console=PANIC, halted=7))
    assert found.kind is VerdictKind.QEMU_HALTED
    assert found.hint == "Let it go on: kill -CONT 7"


def test_a_guest_that_panics_and_starts_again_is_still_one_that_panicked() -> None:
    text = console("kernel-no-root-quiet") + console("bios-no-bootable-disk").partition("Booting")[0]
    assert judge(replace(RUNNING, console=text)).kind is VerdictKind.NO_ROOT


def test_firmware_that_tried_in_vain_first_is_no_matter_once_a_kernel_speaks() -> None:
    text = console("bios-no-bootable-disk") + "[    0.000000] Linux version 6.1.0\n[    1.000000] hung\n"
    assert judge(replace(RUNNING, console=text)).kind is VerdictKind.AGENT_ABSENT


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        (Exit(ExitReason.GUEST_SHUTDOWN), VerdictKind.POWERED_OFF, "powered off"),
        (Exit(ExitReason.GUEST_RESET), VerdictKind.REBOOTED, "rebooted"),
        (Exit(ExitReason.GUEST_PANIC), VerdictKind.KERNEL_PANIC, "it has crashed"),
        (Exit(ExitReason.HOST_QUIT, detail="host-qmp-quit"), VerdictKind.QUIT, "host-qmp-quit"),
        (Exit(ExitReason.EXITED, status=33, detail="status 33"), VerdictKind.QEMU_EXITED, "status 33"),
        (Exit(ExitReason.KILLED), VerdictKind.QEMU_KILLED, "it was not kvmctl"),
        (Exit(ExitReason.KILLED, detail="kvmctl stop --force"), VerdictKind.QEMU_KILLED, "`kvmctl stop --force`"),
        (Exit(ExitReason.CRASHED, detail="signal 6"), VerdictKind.QEMU_CRASHED, "signal 6"),
    ],
)
def test_each_way_to_end_has_its_name(end: Exit, kind: VerdictKind, words: str) -> None:
    found = judge(replace(RUNNING, exit=end, console="a console that says nothing of it\n"))
    assert found.kind is kind
    assert words in found.summary


def test_a_guest_that_reboots_after_its_panic_ended_by_the_panic() -> None:
    end = Exit(ExitReason.GUEST_RESET)
    assert judge(replace(RUNNING, exit=end, console=console("kernel-no-root"))).kind is VerdictKind.NO_ROOT


def test_a_killed_qemu_is_told_whatever_its_console_says() -> None:
    end = Exit(ExitReason.KILLED)
    assert judge(replace(RUNNING, exit=end, console=console("kernel-no-root"))).kind is VerdictKind.QEMU_KILLED


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State.IO_ERROR, VerdictKind.DISK_ERROR),
        (State.PANICKED, VerdictKind.KERNEL_PANIC),
        (State.PAUSED, VerdictKind.PAUSED),
        (State.SUSPENDED, VerdictKind.PAUSED),
        (State.SHUTDOWN, VerdictKind.POWERED_OFF),
    ],
)
def test_a_machine_that_stands_still_says_why(state: State, kind: VerdictKind) -> None:
    assert judge(replace(RUNNING, state=state)).kind is kind


@pytest.mark.parametrize(
    ("facts", "hint"),
    [
        ({"has_kernel": True}, "console=ttyS0"),
        ({"has_display": True}, "kvmctl screenshot web"),
        ({}, "video = 'std'"),
    ],
)
def test_a_silent_console_has_a_hint_for_the_machine_it_is(facts: dict[str, bool], hint: str) -> None:
    found = judge(replace(RUNNING, **facts))
    assert found.kind is VerdictKind.SILENT
    assert hint in found.hint


def test_what_nobody_knows_is_called_unknown_and_shown_as_it_is() -> None:
    text = "".join(f"line {number}\n" for number in range(100)) + "\x1b[31mred\x07\x1b]0;title\x07 \x9bfoo\n"
    found = judge(Evidence("web", State.RUNNING, console=text))
    assert found.kind is VerdictKind.UNKNOWN
    assert found.evidence[-2:] == ("line 99", r"red\x07 \x9bfoo")
    assert len(found.evidence) == LINES_SHOWN


@given(st.text(), st.sampled_from(State), st.sampled_from([None, *ExitReason]))
def test_any_console_gets_a_verdict_that_drives_no_terminal(text: str, state: State, reason: ExitReason | None) -> None:
    found = judge(Evidence("web", state, exit=reason and Exit(reason), console=text, qemu_log=text, has_agent=True))
    assert all(ord(char) >= 0x20 and not 0x7F <= ord(char) < 0xA0 for line in found.evidence for char in line)


def test_long_consoles_are_understood_in_no_time() -> None:
    for text in ("\x1b[" * 40000, "a" * 65536, "\x08 " * 40000, "BdsDxe: x\n" * 8000, "[ 1.0] x\n" * 8000):
        judge(replace(RUNNING, console=text))


def test_backspaces_and_escapes_leave_the_words() -> None:
    assert plain("Ctrl-B...\x08 \x08\x08 \x08\r\n\x1b[04;47H\x1b[1mShell> \x1b[0m\x1b[37m") == "Ctrl-B...\nShell> "


OOM = (
    "4,1200,600000000,-;qemu-system-x86 invoked oom-killer: gfp_mask=0x140cca, order=0, oom_score_adj=0",
    "6,1201,600000100,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task=qemu-system-x86,pid=4711,uid=0",
    "3,1202,600000200,-;Out of memory: Killed process 4711 (qemu-system-x86) total-vm:9876kB, anon-rss:5432kB, UID:0",
    "3,1300,900000000,-;Memory cgroup out of memory: Killed process 4712 (qemu-system-x86) total-vm:1kB, UID:0",
    " SUBSYSTEM=cpu",
    "not a record",
)


@pytest.mark.parametrize(("pid", "words"), [(4711, "Out of memory: Killed process 4711"), (4712, "Memory cgroup out")])
def test_the_kernels_log_tells_of_a_process_killed_for_want_of_memory(pid: int, words: str) -> None:
    assert find_oom_kill(OOM, pid, since=1500.0, booted=1000.0).startswith(words)


def test_another_process_or_one_of_before_is_not_meant() -> None:
    assert find_oom_kill(OOM, 471, since=0.0, booted=1000.0) == ""
    assert find_oom_kill(OOM, 4711, since=1700.0, booted=1000.0) == ""


def test_a_qemu_that_was_killed_for_want_of_memory_says_so() -> None:
    line = find_oom_kill(OOM, 4711, since=0.0, booted=0.0)
    found = judge(replace(RUNNING, exit=Exit(ExitReason.KILLED), oom=line))
    assert found.kind is VerdictKind.OUT_OF_MEMORY
    assert found.evidence == (line,)


def test_an_error_shows_its_verdict_and_nothing_twice() -> None:
    error = NotRunning("machine 'web' ended before 'login:'", detail="one\ntwo", hint="Look.")
    error.verdict = Verdict(VerdictKind.KERNEL_PANIC, "the guest's kernel panicked", ("two", PANIC))
    assert str(error).splitlines() == [
        "machine 'web' ended before 'login:'",
        "one",
        "two",
        "verdict: kernel-panic: the guest's kernel panicked",
        f"  | {PANIC}",
        "hint: Look.",
    ]


def test_what_stops_a_start_before_there_is_a_qemu_has_a_verdict_too() -> None:
    error = ImageBusy("disks[0].path: 'a.qcow2' is in use by process 7", holder=7)
    judge_start(error)
    assert error.verdict is not None
    assert error.verdict.kind is VerdictKind.IMAGE_LOCKED
    assert "process 7" in error.verdict.summary
