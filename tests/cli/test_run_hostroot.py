"""``run --host-root``: a command in a machine made of this host, as people type it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from runtime.guests import build

from .conftest import PATIENCE, PROGRAM, Kvmctl
from .test_terminal import terminal

ROOT = Path(__file__).parents[2]
OPTIONS = ("run", "--host-root", "--cwd", "/")

real = [pytest.mark.qemu, pytest.mark.linux, pytest.mark.slow]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "no machine is named"),
        (["run", "tiny", "--rw"], "one of the options is for machines made of this host"),
        (["run", "tiny", "--memory", "1GiB"], "one of the options is for machines made of this host"),
        (["run", "--host-root", "--name", "web"], "a machine made of this host has no name"),
        (["run", "--host-root", "--memory", "much", "--", "true"], "much"),
        (["run", "--host-root", "--cpus", "0", "--", "true"], "cpus"),
    ],
)
def test_what_does_not_go_together_is_a_wrong_command_line(kvmctl: Kvmctl, words: list[str], said: str) -> None:
    done = kvmctl(*words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kernel", "./no/kernel"], "there is no kernel './no/kernel'"),
        (["--kernel", "/etc/passwd"], "is no x86 Linux kernel"),
        (["--kernel", "7.7.7"], "neither /boot/vmlinuz-7.7.7 nor /lib/modules/7.7.7/vmlinuz exists"),
    ],
)
def test_a_machine_that_can_not_be_made_is_125(kvmctl: Kvmctl, words: list[str], said: str) -> None:
    done = kvmctl("run", "--host-root", *words, "--", "true")
    assert (done.returncode, said in done.stderr) == (125, True), done.stderr


def readable_kernel(home: str, *guest: str) -> tuple[str, ...]:
    """The options for the kernel of a guest, copied to where a user without privileges can read it."""
    source = Path(build(*guest)[0]).parent
    shutil.copytree(source, f"{home}/kernel", ignore=lambda *_: ["apt", "lock"])
    return "--kernel", f"{home}/kernel/vmlinuz"


class TestGuests:
    """Each boots one."""

    pytestmark = real

    @pytest.fixture
    def options(self) -> tuple[str, ...]:
        return (*OPTIONS, "--kernel", build()[0])

    def test_streams_and_the_exit_code_are_the_commands(self, kvmctl: Kvmctl, options: tuple[str, ...]) -> None:
        done = kvmctl(*options, "--env", "WORD=x y", "--", "sh", "-c", 'cat; echo "$WORD" >&2; exit 3', stdin="typed")
        assert (done.returncode, done.stdout, done.stderr) == (3, "typed", "x y\n")

    def test_a_command_that_takes_too_long_is_124(self, kvmctl: Kvmctl, options: tuple[str, ...]) -> None:
        done = kvmctl(*options, "--timeout", "0.5", "--", "sleep", "1000")
        assert done.returncode == 124
        assert "gave up after 0.5 s" in done.stderr
        assert os.listdir(kvmctl.directory / "runtime") == []

    @pytest.mark.parametrize(
        ("script", "numbers", "code"),
        [
            ("trap 'echo told; exit 7' TERM; echo up; sleep 1000 & wait", [signal.SIGTERM], 7),
            ("echo up; exec sleep 1000", [signal.SIGINT], 130),
            ("trap 'echo told' INT; echo up; while :; do sleep 1000 & wait; done", [signal.SIGINT] * 2, 130),
        ],
        ids=["obeyed", "deadly", "insisted on"],
    )
    def test_signals_are_the_commands_and_the_second_one_ends_the_machine(
        self, kvmctl: Kvmctl, options: tuple[str, ...], script: str, numbers: list[int], code: int
    ) -> None:
        process = kvmctl.popen(*options, "--", "sh", "-c", script)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(numbers[0])
        for number in numbers[1:]:
            assert process.stdout.readline() == "told\n"
            process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == code
        assert os.listdir(kvmctl.directory / "runtime") == []

    def test_nothing_outlives_a_kvmctl_that_is_killed(self, kvmctl: Kvmctl, options: tuple[str, ...]) -> None:
        process = kvmctl.popen(*options, "--", "sh", "-c", "echo up; sleep 1000")
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert {"qemu-system-x86_64", "virtiofsd"} & {child.name()[:18] for child in children}
        process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
        assert kvmctl.ok("list", "--json")
        assert os.listdir(kvmctl.directory / "runtime") == []

    def test_a_terminal_is_the_commands_own(self, kvmctl: Kvmctl, options: tuple[str, ...]) -> None:
        kvmctl.environment["SHELL"] = "/bin/sh"
        with terminal(kvmctl, *options, "--env", "PS1=READY> ") as ours:
            fcntl.ioctl(ours.follower, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
            ours.expect(b"READY> ")
            ours.process.send_signal(signal.SIGWINCH)
            # The size is on its way, and the shell of the guest is where it is seen to come.
            ours.type(b'until [ "$(stty size)" = "33 101" ]; do sleep 0.1; done; stty size; tty\r')
            ours.expect(rb"33 101\r\n/dev/pts/0\r\n")
            ours.expect(b"READY> ")
            # Said by the process that Ctrl-C is meant for: the shell says it sooner than it lets go of the terminal.
            ours.type(b"sh -c 'echo s\"leep\"s; exec sleep 1000'\r")
            ours.expect(rb"\nsleeps\r\n")
            ours.type(b"\x03")
            ours.expect(b"READY> ")
            ours.type(b"exit 7\r")
            assert ours.wait() == 7

    @pytest.fixture
    def nobody(self) -> Iterator[tuple[list[str], dict[str, str]]]:
        """The command line as a user without privileges has it, with an interpreter that he can read."""
        package = next(path for path in sys.path if path.endswith("site-packages"))
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            home = Path(directory, "home")
            home.mkdir()
            os.chown(home, 65534, 65534)
            kept = {name: value for name, value in os.environ.items() if "KVMCTL" not in name}
            dirs = {f"KVMCTL_{part}_DIR": str(home / part.lower()) for part in ("CONFIG", "STATE", "RUNTIME", "CACHE")}
            env = {**kept, **dirs, "HOME": str(home), "PYTHONPATH": f"{ROOT}:{package}", "PYTHONDONTWRITEBYTECODE": "1"}
            become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
            for python in (sys.executable, "/usr/bin/python3"):
                probe = [
                    *become,
                    "sh",
                    "-c",
                    f"test -r {python} && {python} -c 'import kvmctl.cli.run, qemu.qmp, pydantic'",
                ]
                if (
                    shutil.which("setpriv")
                    and not subprocess.run(probe, env=env, capture_output=True, check=False).returncode
                ):
                    yield [*become, python, *PROGRAM[1:], *OPTIONS], env
                    return
        pytest.skip("no interpreter here can be read by a user without privileges")

    def test_a_user_without_privileges_is_the_guests_root_and_no_more_than_that(
        self, nobody: tuple[list[str], dict[str, str]]
    ) -> None:
        command, env = nobody
        home = env["HOME"]
        script = f"id -u; cat /etc/shadow; echo x >>/etc/passwd; echo x >{home}/given/x; echo x >{home}/x; uname -r"
        Path(home, "given").mkdir()
        os.chown(f"{home}/given", 65534, 65534)
        argv = [*command, *readable_kernel(home), "--rwdir", f"{home}/given", "--", "sh", "-c", script]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd="/")
        lines = done.stdout.splitlines()
        assert (done.returncode, lines[0], len(lines)) == (0, "0", 2), done.stderr
        assert "/etc/shadow: Permission denied" in done.stderr
        assert done.stderr.count("Read-only file system") + done.stderr.count("Permission denied") == 2
        assert Path(home, "given", "x").read_text() == "x\n"
        assert os.stat(f"{home}/given/x").st_uid == 65534
        assert not Path(home, "x").exists()
        assert os.listdir(env["KVMCTL_RUNTIME_DIR"]) == []

    @pytest.mark.parametrize(("guest", "code"), [("small-linux", 125), ("generic-linux", 0)])
    def test_a_layer_over_files_of_others_needs_a_kernel_with_9p(
        self, nobody: tuple[list[str], dict[str, str]], guest: str, code: int
    ) -> None:
        command, env = nobody
        script = "echo x >/etc/new; cat /etc/new; echo y >>/etc/passwd; tail -n 1 /etc/passwd"
        argv = [*command, *readable_kernel(env["HOME"], guest), "--rw", "--", "sh", "-c", script]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd="/")
        assert (done.returncode, done.stdout) == (code, "" if code else "x\ny\n"), done.stderr
        assert not code or "it lacks 9p" in done.stderr
        assert not os.path.exists("/etc/new")
