"""The guest from the command line, on a real Linux: commands, files, file systems, and clients that are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .conftest import PATIENCE, ROOT, Kvmctl, command_line_of

pytestmark = [pytest.mark.linux, pytest.mark.slow]

SPEC = f"""
memory = "1GiB"
[boot]
kernel = "{ROOT}/machines/images/small-linux/vmlinuz"
initrd = "{ROOT}/machines/images/small-linux/initramfs.gz"
cmdline = "console=ttyS0 quiet panic=-1"
[[disks]]
path = "disk.qcow2"
format = "qcow2"
size = "64MiB"
discard = "unmap"
"""
QUICK = SPEC.partition("[[disks]]")[0] + "[agent]\nresident = true\n"
"""The same with the program of kvmctl's own that the guest starts where it has a port for it."""
DATA = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Kvmctl]:
    """A command line whose machine ``web`` is a Linux with a disk at /mnt, and ``quick`` one with a resident."""
    build = [sys.executable, ROOT / "scripts/build-guest", "-o", ROOT / "machines/images/small-linux"]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    with command_line_of(tmp_path_factory.mktemp("inside"), pytestconfig) as kvmctl:
        (kvmctl.directory / "web.toml").write_text(SPEC)
        (kvmctl.directory / "quick.toml").write_text(QUICK)
        start(kvmctl, "./web.toml", "web")
        start(kvmctl, "./quick.toml", "quick")
        kvmctl.ok("exec", "web", "--", "sh", "-c", "mke2fs /dev/vda >/dev/null && mount /dev/vda /mnt")
        yield kvmctl
        for name in ("web", "quick"):
            kvmctl("kill", name)


def start(kvmctl: Kvmctl, spec: str, name: str) -> None:
    kvmctl.ok("start", spec, "--name", name)
    kvmctl.ok("wait", name, "--for", "agent", "--timeout", str(PATIENCE))


@pytest.fixture
def here(web: Kvmctl, tmp_path: Path) -> Kvmctl:
    """The command line, in a directory of the test's own."""
    return Kvmctl(tmp_path, web.environment)


@pytest.fixture(autouse=True)
def no_client_is_left(here: Kvmctl, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client that a failing test has left is not in the next one's way."""
    started: list[subprocess.Popen[str]] = []
    popen = here.popen

    def note(*words: str, **streams: int) -> subprocess.Popen[str]:
        started.append(popen(*words, **streams))
        return started[-1]

    monkeypatch.setattr(here, "popen", note)
    yield
    for process in started:
        process.kill()
        process.communicate()


def expect(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == line


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a process that is to end by itself, and what it complained of."""
    _, complaint = process.communicate(timeout=PATIENCE)
    return process.returncode, complaint


def is_running(kvmctl: Kvmctl, words: str, name: str = "web") -> bool:
    script = 'ps -o args | grep -v grep | grep -q -e "$1"'
    return kvmctl("exec", name, "--", "sh", "-c", script, "sh", words).returncode == 0


def guest(kvmctl: Kvmctl, script: str, name: str = "web") -> str:
    return kvmctl.ok("exec", name, "--", "sh", "-c", script)


# -- exec


def test_input_is_passed_on_as_it_comes(here: Kvmctl) -> None:
    talk = here.popen("exec", "web", "--stdin", "--", "sh", "-c", 'while read -r word; do echo "<$word>"; done; exit 5')
    assert talk.stdin is not None
    for word in ("one", "two"):
        talk.stdin.write(f"{word}\n")
        talk.stdin.flush()
        expect(talk, f"<{word}>\n")
    assert end(talk) == (5, "")  # its input ends when ours does


def test_much_input_comes_whole(here: Kvmctl) -> None:
    (here.directory / "data").write_bytes(DATA)
    with (here.directory / "data").open() as stdin:
        counting = here.popen("exec", "web", "--stdin", "--", "sha256sum", stdin=stdin.fileno())
    summed = subprocess.run(["sha256sum"], input=DATA, capture_output=True, check=True).stdout.decode()
    expect(counting, summed)
    assert end(counting) == (0, "")


def test_command_runs_as_another_user_in_another_directory(here: Kvmctl) -> None:
    said = here.ok("exec", "web", "--user", "nobody", "--cwd", "/var", "--", "sh", "-c", "id -un; pwd; echo $USER")
    assert said.split() == ["nobody", "/var", "nobody"]
    assert here("exec", "web", "--cwd", "/nowhere", "--", "true").returncode == 126
    assert here("exec", "web", "--user", "no-one", "--", "true").returncode == 126


WAYS = pytest.mark.parametrize(
    "way", [("web",), ("web", "--via", "agent"), ("quick",)], ids=["quickly", "with-options", "by-the-resident"]
)
"""A plain command goes another way than one with options, and another one where a program waits for it in the guest;
all are to be the same in everything."""


def test_a_plain_command_is_run_with_next_to_nothing(here: Kvmctl) -> None:
    loaded = here.modules("exec", "web", "--", "true")
    assert "kvmctl.runtime.quickexec" in loaded
    assert not loaded & {"asyncio", "pydantic", "pydantic_core", "psutil", "qemu.qmp", "typer", "socket", "subprocess"}
    assert not loaded & {"dataclasses", "datetime", "hashlib", "inspect", "pathlib", "secrets", "shutil"}
    assert "kvmctl.guest.run" in here.modules("exec", "web", "--via", "agent", "--", "true")


def test_the_resident_is_asked_with_less_than_that(here: Kvmctl) -> None:
    loaded = here.modules("exec", "quick", "--", "true")
    assert "kvmctl.guest.residentrun" in loaded
    assert not loaded & {"asyncio", "pydantic", "psutil", "typer", "subprocess", "inotify_simple", "ctypes"}
    assert not {name for name in loaded if name.startswith("kvmctl.guest.")} & {
        f"kvmctl.guest.{name}" for name in ("agent", "command", "session", "shell", "spool", "talk")
    }


def test_commands_beside_one_that_the_resident_runs_are_run_all_the_same(here: Kvmctl) -> None:
    first = here.popen(
        "exec", "quick", "--", "sh", "-c", "mkfifo /tmp/end; echo ready; read -r word </tmp/end; rm /tmp/end"
    )
    expect(first, "ready\n")
    beside = [here.popen("exec", "quick", "--", "echo", f"{number}") for number in range(8)]
    assert [process.communicate(timeout=PATIENCE)[0] for process in beside] == [f"{number}\n" for number in range(8)]
    guest(here, "echo >/tmp/end", "quick")
    assert end(first) == (0, "")
    assert "kvmctl.guest.spool" not in here.modules("exec", "quick", "--", "true")  # it is free again


def test_a_resident_that_the_guest_ends_is_told_of_and_missed_by_nobody(here: Kvmctl) -> None:
    (here.directory / "lone.toml").write_text(QUICK)
    start(here, "./lone.toml", "lone")
    talk = here.popen("exec", "lone", "--", "sh", "-c", "echo ready; sleep 1007")
    expect(talk, "ready\n")
    guest(
        here,
        "kill -9 $(ps -o pid,args | sed -n 's,^ *\\([0-9]*\\) /usr/lib/kvmctl/resident.*,\\1,p' | head -n 1)",
        "lone",
    )
    code, complaint = end(talk)
    assert code == 125
    assert "the connection to the program in the guest is broken" in complaint
    assert guest(here, "echo still there", "lone") == "still there\n"
    here.ok("kill", "lone")


def test_a_signal_that_comes_before_there_is_a_command_ends_us(here: Kvmctl) -> None:
    qemu = int((Path(here.environment["KVMCTL_RUNTIME_DIR"]) / "web/pid").read_text())
    os.kill(qemu, signal.SIGSTOP)  # it runs, for all that is known, and nobody answers
    try:
        asking = here.popen("exec", "web", "--", "true")
        while not any(link.endswith("/agent.lock") for link in links(psutil.Process(asking.pid))):
            assert asking.poll() is None
        asking.send_signal(signal.SIGINT)
        assert end(asking)[0] == 130
    finally:
        os.kill(qemu, signal.SIGCONT)


def links(process: psutil.Process) -> list[str]:
    """The files that a process has open."""
    return [file.path for file in process.open_files()]


@WAYS
def test_streams_and_the_exit_code_are_the_commands(here: Kvmctl, way: tuple[str, ...]) -> None:
    done = here("exec", *way, "--", "sh", "-c", "seq 1 30000; echo err >&2; exit 7")
    assert (done.returncode, done.stderr) == (7, "err\n")
    assert done.stdout == "".join(f"{number}\n" for number in range(1, 30001))
    assert here("exec", *way, "--", "no-such-command").returncode == 127
    assert here("exec", *way, "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert guest(here, "while ls /var/tmp /tmp /run | grep kvmctl- >&2; do sleep 0.1; done", way[0]) == ""


@WAYS
def test_output_comes_as_it_is_written(here: Kvmctl, way: tuple[str, ...]) -> None:
    gate = "mkfifo /tmp/gate; echo first; cat /tmp/gate; rm /tmp/gate"
    talk = here.popen("exec", *way, "--", "sh", "-c", gate)
    expect(talk, "first\n")
    guest(here, "echo second >/tmp/gate", way[0])  # beside the other, which has given the channel back
    expect(talk, "second\n")
    assert end(talk) == (0, "")


def test_a_machine_that_ends_under_a_command_is_told_of_alike(here: Kvmctl) -> None:
    told = []
    for spec, options in ((SPEC, ()), (SPEC, ("--via", "agent")), (QUICK, ())):
        (here.directory / "gone.toml").write_text(spec)
        start(here, "./gone.toml", "gone")
        talk = here.popen("exec", "gone", *options, "--", "sh", "-c", "echo ready; sleep 1003")
        expect(talk, "ready\n")
        here.ok("kill", "gone")
        told.append(end(talk))
    assert "machine 'gone' has ended" in told[0][1]
    assert [code for code, _ in told] == [125] * 3
    # Between the first line and the others: what was being asked.
    first, *others = ([lines[0], *lines[2:]] for lines in (complaint.splitlines() for _, complaint in told))
    assert others == [first] * 2


def test_a_guest_that_is_reset_under_a_command_is_told_of_alike(here: Kvmctl) -> None:
    (here.directory / "again.toml").write_text(QUICK)
    start(here, "./again.toml", "again")
    told = []
    for options in ((), ("--via", "agent"), ()):
        here.ok("wait", "again", "--for", "agent", "--timeout", str(PATIENCE))
        talk = here.popen("exec", "again", *options, "--", "sh", "-c", "echo ready; sleep 1004")
        expect(talk, "ready\n")
        here.ok("reset", "again")
        told.append(end(talk))
    here.ok("kill", "again")
    assert [code for code, _ in told] == [125] * 3
    assert all("the guest of 'again' was restarted in the middle" in complaint for _, complaint in told)


@WAYS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_our_signals_are_the_commands(here: Kvmctl, number: signal.Signals, way: tuple[str, ...]) -> None:
    asleep = here.popen("exec", *way, "--", "sh", "-c", "echo ready; sleep 1001; echo never")
    expect(asleep, "ready\n")
    asleep.send_signal(number)
    assert end(asleep) == (128 + number, "")
    assert not is_running(here, "sleep 1001", way[0])


@WAYS
def test_a_second_signal_ends_a_command_that_does_not_obey(here: Kvmctl, way: tuple[str, ...]) -> None:
    stubborn = here.popen(
        "exec", *way, "--", "sh", "-c", "trap 'echo no' INT TERM; echo ready; while :; do sleep 1.7; done"
    )
    expect(stubborn, "ready\n")
    stubborn.send_signal(signal.SIGINT)
    expect(stubborn, "no\n")
    stubborn.send_signal(signal.SIGINT)
    assert end(stubborn)[0] == 130
    assert not is_running(here, "sleep 1.7", way[0])


@WAYS
def test_a_hangup_ends_the_command(here: Kvmctl, way: tuple[str, ...]) -> None:
    asleep = here.popen("exec", *way, "--", "sh", "-c", "echo ready; sleep 1005; echo never")
    expect(asleep, "ready\n")
    asleep.send_signal(signal.SIGHUP)
    assert end(asleep) == (129, "")
    assert not is_running(here, "sleep 1005", way[0])


@WAYS
def test_a_reader_that_leaves_ends_the_command(here: Kvmctl, way: tuple[str, ...]) -> None:
    talk = here.popen("exec", *way, "--", "sh", "-c", "echo ready; while sleep 0.1; do echo 1006; done")
    expect(talk, "ready\n")
    assert talk.stdout is not None
    talk.stdout.close()
    talk.wait(timeout=PATIENCE)
    assert not is_running(here, "echo 1006", way[0])


@WAYS
def test_what_a_killed_client_was_running_is_ended_by_the_next(here: Kvmctl, way: tuple[str, ...]) -> None:
    asleep = here.popen("exec", *way, "--", "sh", "-c", "echo ready; sleep 1002; echo never")
    expect(asleep, "ready\n")
    asleep.send_signal(signal.SIGKILL)
    end(asleep)
    assert not is_running(here, "sleep 1002", way[0])
    assert not list((Path(here.environment["KVMCTL_RUNTIME_DIR"]) / way[0] / "leftovers").glob("*"))


# -- cp


def test_files_go_in_and_come_out_as_they_were(here: Kvmctl) -> None:
    file = here.directory / "file"
    file.write_bytes(DATA)
    file.chmod(0o751)
    os.utime(file, (10**9, 10**9))
    done = here("cp", "file", "web:/run/", "-v")
    assert (done.returncode, done.stdout) == (0, "")
    assert "by the transfer port" in done.stderr
    here.ok("cp", "web:/run/file", "back")
    back = here.directory / "back"
    assert back.read_bytes() == DATA
    assert (stat.S_IMODE(back.stat().st_mode), back.stat().st_mtime) == (0o751, 10**9)
    guest(here, "rm /run/file")


def test_directories_go_in_and_come_out_as_they_were(here: Kvmctl) -> None:
    tree = here.directory / "tree"
    (tree / "a b/deep").mkdir(parents=True)
    (tree / "a b/file").write_bytes(DATA)
    (tree / "a b/deep/link").symlink_to("/nowhere")
    (tree / ("n" * 150)).touch(0o600)
    here.ok("cp", "tree", "web:/run/there")
    here.ok("cp", "tree", "web:/run/there")  # into it, now that it is there
    here.ok("cp", "web:/run/there", ".")
    for place in ("there", "there/tree"):
        shown = subprocess.run(
            ["diff", "-r", "--no-dereference", "-x", "tree", tree, here.directory / place],
            check=False,
            capture_output=True,
        )
        assert shown.stdout == b""
    assert stat.S_IMODE((here.directory / "there" / ("n" * 150)).stat().st_mode) == 0o600
    guest(here, "rm -r /run/there")


def test_a_machine_without_the_port_copies_all_the_same_and_says_so(here: Kvmctl) -> None:
    (here.directory / "slow.toml").write_text(SPEC.replace("[boot]", "[agent]\ntransfer = false\n[boot]"))
    start(here, "./slow.toml", "slow")
    (here.directory / "file").write_bytes(DATA)
    done = here("cp", "file", "slow:/run/", "-v")
    assert done.returncode == 0
    assert "by the agent's file calls" in done.stderr
    here.ok("cp", "slow:/run/file", "back")
    assert (here.directory / "back").read_bytes() == DATA
    here.ok("kill", "slow")


def test_what_can_not_be_copied_is_said_with_its_exit_code(here: Kvmctl) -> None:
    (here.directory / "file").write_bytes(DATA)
    for words, code, said in [
        (("web:/missing", "."), 17, "there is no '/missing'"),
        (("missing", "web:/"), 4, "there is no 'missing'"),
        (("file", "web:/no/where"), 17, "there is no directory '/no/'"),
        (("file", "web:/proc/x"), 17, "can't create"),
        (("file", "other"), 2, "is to be NAME:PATH"),
        (("web:/a", "web:/b"), 2, "is to be NAME:PATH"),
        (("file", "nobody:/x"), 4, "no machine 'nobody'"),
    ]:
        done = here("cp", *words)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert os.listdir(here.directory) == ["file"]


def test_a_full_disk_in_the_guest_is_said_and_leaves_nothing_there(here: Kvmctl) -> None:
    (here.directory / "large").write_bytes(bytes(100 << 20))
    done = here("cp", "large", "web:/mnt/")
    assert done.returncode == 17
    assert "No space left on device" in done.stderr
    (here.directory / "tree").mkdir()
    (here.directory / "large").rename(here.directory / "tree/large")
    done = here("cp", "tree", "web:/mnt/")
    assert done.returncode == 17
    assert "No space left on device" in done.stderr
    assert guest(here, "ls -A /mnt") == "lost+found\n"
    here.ok("cp", "web:/etc/hosts", ".")  # the port is as good as new


def test_a_disk_here_that_takes_no_more_is_said_and_leaves_nothing_here(here: Kvmctl) -> None:
    guest(here, "mkdir -p /run/trees; truncate -s 3000000 /run/large /run/trees/large")
    for name in ("large", "trees"):
        words = [sys.executable, "-m", "kvmctl", "cp", f"web:/run/{name}", "."]
        limited = ["sh", "-c", 'ulimit -f 1000; exec "$@"', "sh", *words]  # stands for a disk that is full
        done = subprocess.run(
            limited,
            env=here.environment,
            cwd=here.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert (done.returncode, "File too large" in done.stderr) == (17, True), done.stderr
    assert os.listdir(here.directory) == []
    guest(here, "rm -r /run/large /run/trees")


@pytest.mark.parametrize("words", [("large", "web:/run/"), ("web:/run/zeros", "back")])
def test_a_client_killed_in_the_middle_leaves_nothing_and_is_not_in_the_way(
    here: Kvmctl, words: tuple[str, str]
) -> None:
    with (here.directory / "large").open("wb") as file:
        file.truncate(400 << 20)
    guest(here, "truncate -s 4G /run/zeros")
    copying = here.popen("cp", *words)
    wait_for_script(here)
    copying.send_signal(signal.SIGKILL)
    end(copying)
    (here.directory / "file").write_bytes(DATA)
    here.ok("cp", "file", "web:/run/")
    here.ok("cp", "web:/run/file", "back")
    assert (here.directory / "back").read_bytes() == DATA
    assert guest(here, "ls -A /run | grep kvmctl; ls /run | grep large; true") == ""
    assert not is_running(here, "kvmctl-")
    guest(here, "rm -f /run/zeros /run/file")


def wait_for_script(kvmctl: Kvmctl) -> None:
    """Wait until a copy's script runs in the guest."""
    guest(kvmctl, "until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q vport.p2; do sleep 0.05; done; sleep 0.3")


def test_copies_take_turns(here: Kvmctl) -> None:
    with (here.directory / "large").open("wb") as file:
        file.truncate(200 << 20)
    first = here.popen("cp", "large", "web:/run/one")
    wait_for_script(here)
    second = here("cp", "large", "web:/run/two")
    assert second.returncode == 0
    assert f"waiting for another copy to end: process {first.pid}" in second.stderr
    assert end(first) == (0, "")
    assert guest(here, "cmp /run/one /run/two && rm /run/one /run/two") == ""


def test_a_copy_that_is_interrupted_leaves_nothing(here: Kvmctl) -> None:
    with (here.directory / "large").open("wb") as file:
        file.truncate(400 << 20)
    copying = here.popen("cp", "large", "web:/run/")
    wait_for_script(here)
    copying.send_signal(signal.SIGINT)
    assert end(copying)[0] == 130
    assert guest(here, "ls -A /run | grep kvmctl; ls /run | grep large; true") == ""
    assert not is_running(here, "kvmctl-")


AWAIT_COPY = "until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q vport.p2; do sleep 0.05; done\n"
STOP_COPY = """
for fd in /proc/[0-9]*/fd/*; do
    case $(ls -l "$fd" 2>/dev/null) in *vport?p2) pid=${fd#/proc/}; kill -s STOP "${pid%%/*}" ;; esac
done
"""
RESTART_AGENT = """
pid=$(cat /run/qemu-ga.pid)
restart() {
    sleep 0.5  # this command's own answer is to be given before
    kill $pid
    while kill -0 $pid; do sleep 0.1; done
    qemu-ga -d --statedir=/run --pidfile=/run/qemu-ga.pid -p /dev/virtio-ports/org.qemu.guest_agent.0
}
restart >/dev/null 2>&1 </dev/null &
"""


@pytest.mark.parametrize(
    ("words", "fault", "code", "said"),
    [
        (("exec", "sleep"), "reset", 125, "restarted in the middle"),
        (("exec", "sleep"), "kill", 125, "has ended"),
        (("cp", "in"), "reset", 12, "restarted in the middle"),
        (("cp", "in"), "kill", 5, "has ended"),
        (("cp", "out"), "reset", 12, "restarted in the middle"),
        (("cp", "out"), "kill", 5, "has ended"),
        # What it was asked last may be lost with it, or is asked of one that knows nothing of it.
        (("exec", "sleep"), "agent", 125, "not answer|restarted meanwhile"),
    ],
)
def test_a_guest_that_goes_in_the_middle_is_said(
    here: Kvmctl, words: tuple[str, str], fault: str, code: int, said: str
) -> None:
    (here.directory / "fragile.toml").write_text(SPEC)
    start(here, "./fragile.toml", "fragile")
    with (here.directory / "large").open("wb") as file:
        file.truncate(400 << 20)
    guest(here, "truncate -s 4G /run/zeros", "fragile")
    work = {
        ("exec", "sleep"): ("exec", "fragile", "--", "sh", "-c", "echo ready; sleep 1003"),
        ("cp", "in"): ("cp", "large", "fragile:/run/"),
        ("cp", "out"): ("cp", "fragile:/run/zeros", "back"),
    }[words]
    process = here.popen(*work)
    if words[0] == "exec":
        expect(process, "ready\n")
    else:
        guest(here, AWAIT_COPY, "fragile")
    if fault == "agent":
        guest(here, RESTART_AGENT, "fragile")
    else:
        here.ok(fault, "fragile")
    found, complaint = end(process)
    assert found == code
    assert re.search(said, complaint)
    assert not (here.directory / "back").exists()
    assert not list(here.directory.glob(".kvmctl-*"))
    here("kill", "fragile")


@pytest.mark.parametrize("words", [("large", "fragile:/run/"), ("fragile:/run/zeros", "back")], ids=["in", "out"])
def test_a_copy_whose_agent_dies_is_said_and_leaves_nothing(here: Kvmctl, words: tuple[str, str]) -> None:
    (here.directory / "fragile.toml").write_text(SPEC.partition("[[disks]]")[0])
    start(here, "./fragile.toml", "fragile")
    try:
        with (here.directory / "large").open("wb") as file:
            file.truncate(400 << 20)
        guest(here, "truncate -s 4G /run/zeros", "fragile")
        copying = here.popen("cp", *words)
        guest(here, AWAIT_COPY + STOP_COPY, "fragile")  # it is in the middle of it for as long as this takes
        guest(here, RESTART_AGENT, "fragile")
        code, complaint = end(copying)
        # What the agent was asked last may be lost with it, or is asked of one that knows nothing of it.
        assert (code, "restarted meanwhile" in complaint) in {(10, False), (12, True)}, complaint
        assert sorted(os.listdir(here.directory)) == ["fragile.toml", "large"]
        (here.directory / "file").write_bytes(DATA)
        here.ok("cp", "file", "fragile:/run/")
        assert (
            guest(here, "ls -A /run /tmp | grep -e kvmctl- -e large; cat /run/file | wc -c", "fragile") == "1048576\n"
        )
        assert not is_running(here, "kvmctl-", "fragile")
    finally:
        here("kill", "fragile")


# -- file systems, clock, users


def test_file_systems_are_frozen_while_a_command_runs_and_thawed_after_it(here: Kvmctl) -> None:
    script = '"$0" -m kvmctl exec web -- true; echo $?; exit 3'
    done = here("freeze", "web", "--", "sh", "-c", script, sys.executable)
    assert (done.returncode, done.stdout) == (3, "125\n")
    assert "web: 1 file system frozen" in done.stderr
    assert "are frozen by process" in done.stderr
    guest(here, "echo x >/mnt/x; sync; rm /mnt/x")


def test_file_systems_are_thawed_when_the_time_is_up(here: Kvmctl) -> None:
    assert here("freeze", "web", "--for", "0.2").returncode == 0
    assert here("freeze", "web", "--for", "0.2", "--", "sleep", "1000").returncode == 124
    assert here("freeze", "web", "--", "no-such-command").returncode == 4
    guest(here, "echo x >/mnt/x; sync; rm /mnt/x")


def freeze(kvmctl: Kvmctl, name: str = "web") -> subprocess.Popen[str]:
    freezing = kvmctl.popen("freeze", name)
    assert freezing.stderr is not None
    assert "frozen" in freezing.stderr.readline()
    return freezing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_freezer_that_is_interrupted_thaws(here: Kvmctl, number: signal.Signals) -> None:
    freezing = freeze(here)
    freezing.send_signal(number)
    assert end(freezing)[0] == 128 + number
    guest(here, "echo x >/mnt/x; sync; rm /mnt/x")


def test_what_a_killed_freezer_froze_is_thawed_by_the_next_command(here: Kvmctl) -> None:
    freezing = freeze(here)
    assert here("thaw", "web").returncode == 7  # it is there, and wants it so
    freezing.send_signal(signal.SIGKILL)
    end(freezing)
    guest(here, "echo x >/mnt/x; sync; rm /mnt/x")
    assert "0 file systems thawed" in here("thaw", "web").stderr


def test_trim_gives_back_what_is_not_used(here: Kvmctl) -> None:
    (found,) = json.loads(here.ok("trim", "web", "--json"))["filesystems"]
    assert found["path"] == "/mnt"
    assert found["size"] > 1 << 20
    assert "/mnt" in here.ok("trim", "web", "--minimum", "64KiB")


def test_clock_is_set_to_ours(here: Kvmctl) -> None:
    guest(here, "date -s @1000000000")
    done = here("sync-time", "web")
    assert done.returncode == 0
    assert " behind, and is set" in done.stderr
    assert abs(int(guest(here, "date +%s")) - time.time()) < 10


def test_password_comes_from_standard_input_or_a_file_and_goes_to_chpasswd(here: Kvmctl) -> None:
    (here.directory / "chpasswd").write_text('#!/bin/sh\nprintf "<%s>\\n" "$*" >/run/got\ncat >>/run/got\n')
    (here.directory / "chpasswd").chmod(0o755)
    here.ok("cp", "chpasswd", "web:/sbin/")
    here.ok("set-password", "web", "root", stdin="s3cr:t\nmore\n")
    assert guest(here, "cat /run/got") == "<>\nroot:s3cr:t\n"
    (here.directory / "hash").write_text("$6$x$y\n")
    here.ok("set-password", "web", "root", "--crypted", "--file", "hash")
    assert guest(here, "cat /run/got") == "<-e>\nroot:$6$x$y\n"
    assert here("set-password", "web", "root", "--file", "missing").returncode == 14
    assert here("set-password", "web", "a:b", stdin="x\n").returncode == 12
    guest(here, "rm /sbin/chpasswd /run/got")


def test_guest_tells_of_itself(here: Kvmctl) -> None:
    told = json.loads(here.ok("info", "web", "--guest", "--json"))
    assert (told["hostname"], told["cpus"], told["os"]["machine"]) == ("small-linux", 1, "x86_64")
    assert [item["mountpoint"] for item in told["filesystems"]] == ["/mnt"]
    assert {item["name"] for item in told["interfaces"]} == {"lo"}
    assert len(told["load"]) == 3
    table = here.ok("info", "web", "--guest")
    assert "/mnt  ext2  vda" in table
    assert "Accelerator:  tcg" in here.ok("info", "web")
