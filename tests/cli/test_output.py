"""What verbs print and where: the tables, the JSON contract, colour, and readers that go away."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmctl import KvmctlError
from kvmctl.cli import output
from kvmctl.cli.output import Column
from kvmctl.plan.model import Disk


def test_a_table_is_aligned_with_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([Column("NAME"), Column("MEMORY", right=True), Column("STATE")], [
        ["web", "512 MiB", "running"],
        ["database", "16 GiB", "off"],
    ])  # fmt: skip
    assert capsys.readouterr().out == (
        "NAME       MEMORY  STATE\n"
        "web       512 MiB  running\n"
        "database   16 GiB  off\n"
    )  # fmt: skip


def test_a_table_without_rows_still_has_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([Column("NAME"), Column("STATE")], [])
    assert capsys.readouterr().out == "NAME  STATE\n"


def test_text_from_outside_can_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table([Column("A")], [["\x1b[2Jgone\nsecond\x9b1m"]])
    output.fail(KvmctlError("said \x1b]0;title\x07", detail="one\n\ttwo\x7f"))
    printed = capsys.readouterr()
    assert printed.out == "A\n\\x1b[2Jgone second\\x9b1m\n"
    assert printed.err == "error: said \\x1b]0;title\\x07\none\n\ttwo\\x7f\n"


@given(st.text())
def test_printable_text_has_no_control_characters_but_newlines_and_tabs(text: str) -> None:
    left = [char for char in output.printable(text) if ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0]
    assert set(left) <= {"\n", "\t"}


def test_an_error_is_told_with_its_evidence_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    output.fail(KvmctlError("QEMU exited", detail="qemu: no such device\n", hint="See kvmctl argv web"))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: QEMU exited\nqemu: no such device\nhint: See kvmctl argv web\n"


@dataclass(frozen=True, slots=True)
class Thing:
    path: Path
    flags: frozenset[str]


def test_json_says_its_schema_and_has_times_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 1, 31, 23, 59, 59, 5000, tzinfo=timezone(timedelta(hours=2)))
    output.print_json({"since": moment, "thing": Thing(Path("/a"), frozenset({"svm", "npt"})), "memory": 1 << 30})
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "since": "2026-01-31T21:59:59.005Z",
        "thing": {"path": "/a", "flags": ["npt", "svm"]},
        "memory": 1073741824,
    }


def test_a_json_stream_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json_line({"event": "STOP"})
    output.print_json_line({"event": "RESUME"})
    assert capsys.readouterr().out == '{"schema":1,"event":"STOP"}\n{"schema":1,"event":"RESUME"}\n'


def test_what_has_no_json_form_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(TypeError, match="no JSON form for object"):
        output.print_json({"x": object()})


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (512 << 20, "512 MiB"), (16 << 30, "16 GiB")],
)
def test_sizes_are_told_in_powers_of_1024(count: int, words: str) -> None:
    assert output.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0s"), (0, "0s"), (0.9, "0s"), (59, "59s"), (125, "2m 5s"), (3600, "1h"), (90061, "1d 1h"), (86401, "1d 1s")],
)
def test_durations_are_told_in_two_units(seconds: float, words: str) -> None:
    assert output.duration(seconds) == words


def test_times_are_told_to_the_millisecond() -> None:
    assert output.rfc3339(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02T03:04:05.000Z"


SAY_ERROR = "from kvmctl.cli import output; output.say_marked('error', 'x', colour='red')"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm"}, b"\x1b[31merror:\x1b[0m x\r\n"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, b"error: x\r\n"),
        ({"TERM": "xterm", "CI": "true"}, b"error: x\r\n"),
        ({"TERM": "dumb"}, b"error: x\r\n"),
    ],
)
def test_a_terminal_gets_colour_unless_it_is_not_wanted(environment: dict[str, str], expected: bytes) -> None:
    leader, follower = pty.openpty()
    try:
        kept = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "CI", "TERM"}}
        subprocess.run([sys.executable, "-c", SAY_ERROR], stderr=follower, env=kept | environment, check=True)
        assert os.read(leader, 1000) == expected
    finally:
        os.close(leader)
        os.close(follower)


def test_a_pipe_gets_no_colour() -> None:
    done = subprocess.run([sys.executable, "-c", SAY_ERROR], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"error: x\n"


def test_a_reader_that_goes_away_ends_the_program_quietly() -> None:
    source = "from kvmctl.cli import output\nwhile True: output.emit('line')"
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stdout.readline() == b"line\n"
        writer.stdout.close()
        assert writer.wait(timeout=30) == 128 + 13
        assert writer.stderr.read() == b""


def test_text_a_stream_can_not_encode_is_escaped() -> None:
    source = "from kvmctl.cli import output\noutput.prepare()\noutput.emit('caf\\xe9 \\udcff')"
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", source], env=ascii_only, stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"caf\\xe9 \\udcff\n"


def test_what_has_named_parts_keeps_their_names_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    disk = Disk("disk0", None, "/disk.qcow2", "qcow2", "disk", read_only=False)
    output.print_json({"disks": (disk,), "column": output.Column("SIZE", colours={})})
    document = json.loads(capsys.readouterr().out)
    assert document["disks"][0]["path"] == "/disk.qcow2"
    assert document["column"]["title"] == "SIZE"
