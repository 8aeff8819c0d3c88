"""Machines made of this host: what runs in them, and what of it the host sees."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

import kvmctl
from kvmctl import AgentError, ExecResult, HostRoot, HostRootVm, NotFound, Roots, Terminal

from .conftest import end_all
from .guests import build

pytestmark = [pytest.mark.qemu, pytest.mark.linux, pytest.mark.slow]


@pytest.fixture(scope="module")
def kernel() -> str:
    return build()[0]


class Guest:
    """A machine that several tests use, one after the other."""

    def __init__(self, runner: asyncio.Runner, vm: HostRootVm) -> None:
        self.vm = vm
        self.wait = runner.run

    def run(self, *argv: str, **how: Any) -> ExecResult:
        return self.wait(self.vm.run(argv, **how))

    def shell(self, script: str, **how: Any) -> ExecResult:
        return self.run("/bin/sh", "-c", script, **how)


@pytest.fixture(scope="module")
def own_roots(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Roots]:
    directory = tmp_path_factory.mktemp("hostroot")
    assert pytestconfig.cache is not None
    cache = str(pytestconfig.cache.mkdir("kvmctl"))
    yield Roots(str(directory / "config"), str(directory / "state"), str(directory / "runtime"), cache)
    assert not end_all(str(directory))
    assert os.listdir(directory / "runtime") == []


@pytest.fixture(scope="module")
def guest(kernel: str, own_roots: Roots) -> Iterator[Guest]:
    """The host's own root as the guest's."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        started = kvmctl.launch_host_root(HostRoot(kernel=kernel, directory="/usr"), roots=own_roots)
        try:
            yield Guest(runner, runner.run(stack.enter_async_context(started)))
        finally:
            runner.run(stack.aclose())


def test_the_kernel_is_the_one_that_was_given(guest: Guest) -> None:
    assert guest.run("uname", "-r").stdout.decode() == f"{guest.vm.kernel_version}\n"
    assert guest.vm.kernel_version != os.uname().release


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_is_the_commands(guest: Guest, code: int) -> None:
    assert guest.shell(f"exit {code}").exit_code == code


def test_a_command_that_a_signal_ended_is_told_from_one_that_exited(guest: Guest) -> None:
    result = guest.shell("kill -9 $$")
    assert (result.exit_code, result.signal) == (137, 9)
    assert guest.shell("exit 137").signal is None


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("no-such-program", 127, "No such file or directory"),
        ("/no/such/program", 127, "No such file or directory"),
        ("/etc/passwd", 126, "Permission denied"),
        ("/etc", 126, "Permission denied"),
    ],
)
def test_what_can_not_be_run_is_named_with_the_reason(guest: Guest, name: str, code: int, reason: str) -> None:
    result = guest.run(name)
    assert (result.exit_code, result.stderr.decode()) == (code, f"kvmctl: cannot run {name}: {reason}\n")


def test_streams_are_kept_apart(guest: Guest) -> None:
    result = guest.shell("echo out; echo err >&2; echo more >/dev/stderr; echo rest >/dev/stdout")
    assert (result.stdout, result.stderr) == (b"out\nrest\n", b"err\nmore\n")


def test_ten_megabytes_go_in_and_out_byte_for_byte(guest: Guest) -> None:
    data = os.urandom(10 << 20)
    assert guest.run("cat", stdin=data).stdout == data


def test_input_comes_piece_by_piece_and_its_end_is_told(guest: Guest) -> None:
    answered = asyncio.Event()
    came: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        await answered.wait()
        yield b"last\n"

    def note(data: bytes) -> None:
        came.append(data)
        answered.set()

    result = guest.shell("read -r a; echo got $a; cat; echo end", stdin=pieces(), on_stdout=note)
    assert (result.exit_code, b"".join(came)) == (0, b"got first\nlast\nend\n")


def test_input_that_nobody_reads_holds_nobody_up(guest: Guest) -> None:
    assert guest.run("true", stdin=bytes(4 << 20)).exit_code == 0
    assert guest.shell("exec <&-; sleep 0.2; echo done", stdin=bytes(4 << 20)).stdout == b"done\n"


def test_what_a_command_leaves_running_does_not_hold_up_its_end(guest: Guest) -> None:
    result = guest.shell("(while :; do echo noise; done) & echo said; exit 5")
    assert result.exit_code == 5
    assert result.stdout.startswith((b"said\n", b"noise\n"))


@pytest.mark.parametrize(
    ("script", "code"), [("trap 'exit 9' TERM; echo up; sleep 1000 & wait", 9), ("echo up; sleep 1000", 143)]
)
def test_a_signal_is_the_commands_to_obey(guest: Guest, script: str, code: int) -> None:
    async def signalled() -> ExecResult:
        started = asyncio.Event()
        task = asyncio.ensure_future(guest.vm.run(["sh", "-c", script], on_stdout=lambda _: started.set()))
        await started.wait()
        guest.vm.signal(SIGTERM)
        return await task

    assert guest.wait(signalled()).exit_code == code


def test_a_terminal_has_a_size_that_can_change(guest: Guest) -> None:
    async def resized() -> bytes:
        came = bytearray()
        asked = asyncio.Event()

        def note(data: bytes) -> None:
            came.extend(data)
            if b"ready" in came:
                asked.set()

        script = (
            "stty size; test -t 0 -a -t 1 -a -t 2 && echo all; trap 'stty size; exit' WINCH; echo ready; sleep 9 & wait"
        )
        task = asyncio.ensure_future(guest.vm.run(["sh", "-c", script], terminal=Terminal(33, 101), on_stdout=note))
        await asked.wait()
        guest.vm.resize(20, 50)
        await task
        return bytes(came)

    assert guest.wait(resized()) == b"33 101\r\nall\r\nready\r\n20 50\r\n"


def test_what_a_terminals_command_says_last_is_not_lost(guest: Guest) -> None:
    said = guest.shell("seq 1 20000", terminal=Terminal()).stdout
    assert said.split()[-1] == b"20000"
    assert len(said.split()) == 20000


def test_the_root_is_the_hosts_and_can_not_be_written_by_the_guests_root(guest: Guest, tmp_path: Path) -> None:
    assert guest.run("cat", "/etc/os-release").stdout == Path("/etc/os-release").read_bytes()
    attempts = """
        id -u
        touch /etc/kvmctl-was-here; mkdir /kvmctl-was-here; rm /etc/os-release; chmod 777 /etc/passwd
        mount -o remount,rw /; touch /etc/kvmctl-was-here; echo x >>/etc/passwd; ln /etc/passwd /etc/kvmctl-was-here
        mkdir /tmp/again; mount -t virtiofs root /tmp/again; touch /tmp/again/kvmctl-was-here
    """
    before = os.stat("/etc/passwd")
    result = guest.shell(attempts)
    assert result.stdout == b"0\n"
    assert result.stderr.count(b"Read-only file system") >= 6
    assert not os.path.exists("/etc/kvmctl-was-here")
    assert not os.path.exists("/kvmctl-was-here")
    assert os.stat("/etc/passwd") == before


def test_a_guest_has_its_own_processes_devices_and_memory_file_systems(guest: Guest) -> None:
    script = (
        "cat /proc/1/comm; ls -A /tmp | grep -v kvm; echo x >/dev/shm/x; echo x >/run/x; echo x >/tmp/x; ls /dev/vport*"
    )
    assert guest.shell(script).stdout.decode().split()[0] == "init"
    assert not os.path.exists("/dev/shm/x")
    assert not os.path.exists("/run/x")


def test_commands_run_where_they_are_told_to(guest: Guest) -> None:
    assert guest.run("pwd").stdout == b"/usr\n"
    assert guest.run("pwd", directory="/usr/share").stdout == b"/usr/share\n"
    with pytest.raises(AgentError, match="could not go to /no/such/place: No such file or directory"):
        guest.run("pwd", directory="/no/such/place")


def test_a_user_is_who_is_asked_for(guest: Guest) -> None:
    assert guest.shell("id -u; id -g; id -G; echo $USER").stdout == b"0\n0\n0\nroot\n"
    said = guest.shell(
        "id -un; id -u; echo $HOME $USER; cat /proc/self/status | grep CapEff; echo x >/dev/stderr", user="nobody"
    )
    lines = said.stdout.decode().splitlines()
    assert lines[:2] == ["nobody", "65534"]
    assert lines[2].endswith(" nobody")
    assert lines[3].split() == ["CapEff:", "0" * 16]
    assert said.stderr == b"x\n"
    assert guest.shell("id -u; id -g", user="4321").stdout == b"4321\n4321\n"
    with pytest.raises(NotFound, match="no user 'nobody-knows'"):
        guest.run("true", user="nobody-knows")


def test_only_harmless_variables_are_passed_on(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "x")
    monkeypatch.setenv("TERM", "dumb")
    lines = guest.run("env", env={"ADDED": "a=b c"}).stdout.decode().splitlines()
    given = dict(line.split("=", 1) for line in lines)
    assert given["ADDED"] == "a=b c"
    assert given["TERM"] == "dumb"
    assert {"PATH", "HOME", "USER", "SHELL"} <= set(given)
    assert "MY_SECRET" not in given


def test_many_words_and_odd_ones_arrive_as_they_are(guest: Guest) -> None:
    odd = ["", " ", "a b", "$HOME", "'", "\n", "ü", os.fsdecode(b"\xff")]
    printed = guest.run("printf", "%s\\0", *odd).stdout
    assert printed == b"".join(os.fsencode(word) + b"\0" for word in odd)
    words = [str(number) for number in range(30_000)]
    assert guest.run("sh", "-c", 'echo $#; shift 29999; echo "$1"', "sh", *words).stdout == b"30000\n29999\n"
    with pytest.raises(AgentError, match="more than the"):
        guest.run("echo", "x" * (3 << 20))
    refused = guest.run("/bin/echo", "x" * (200 << 10))  # more than the kernel takes of one word
    assert (refused.exit_code, refused.stderr) == (126, b"kvmctl: cannot run /bin/echo: Argument list too long\n")


def test_commands_wait_for_each_other(guest: Guest) -> None:
    async def both() -> list[ExecResult]:
        return await asyncio.gather(guest.vm.run(["sh", "-c", "sleep 0.3; echo a"]), guest.vm.run(["echo", "b"]))

    assert [result.stdout for result in guest.wait(both())] == [b"a\n", b"b\n"]


# --- machines of their own


async def run(script: str, wanted: HostRoot, **how: Any) -> ExecResult:
    return await kvmctl.run_host_root(["/bin/sh", "-c", script], wanted, **how)


async def test_what_is_written_to_a_layer_is_gone_with_the_machine(roots: Roots, kernel: str) -> None:
    wanted = HostRoot(kernel=kernel, writable=True, directory="/")
    script = "echo mine >/etc/kvmctl-was-here; cat /etc/kvmctl-was-here; echo x >>/etc/passwd; tail -n 1 /etc/passwd"
    script += "; rm -r /etc/init.d; ls /etc/init.d; mkdir /kvmctl-was-here && cd /kvmctl-was-here && pwd"
    before = os.stat("/etc/passwd")
    result = await run(script, wanted, roots=roots)
    assert result.stdout == b"mine\nx\n/kvmctl-was-here\n"
    assert os.path.isdir("/etc/init.d")
    assert not os.path.exists("/etc/kvmctl-was-here")
    assert not os.path.exists("/kvmctl-was-here")
    assert os.stat("/etc/passwd") == before


async def test_a_directory_given_for_writing_is_written_and_no_other(
    roots: Roots, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "old").write_text("old")
    (tmp_path / "kept").mkdir()
    monkeypatch.chdir(tmp_path / "given")
    wanted = HostRoot(kernel=kernel, write=(str(tmp_path / "given"),))
    result = await run("pwd; cat old; echo new >new; rm old; echo x >../kept/x; echo x >../x", wanted, roots=roots)
    assert result.stdout.decode() == f"{tmp_path}/given\nold"
    assert (tmp_path / "given" / "new").read_text() == "new\n"
    assert not (tmp_path / "given" / "old").exists()
    assert os.listdir(tmp_path / "kept") == []
    assert not (tmp_path / "x").exists()


async def test_the_working_directory_is_seen_even_where_the_guest_has_its_own_tmp(
    roots: Roots, kernel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").write_text("seen")
    monkeypatch.chdir(tmp_path)
    result = await run("pwd; cat here; echo x >here", HostRoot(kernel=kernel), roots=roots)
    assert result.stdout.decode() == f"{tmp_path}\nseen"
    assert b"Read-only file system" in result.stderr
    assert (tmp_path / "here").read_text() == "seen"


@pytest.fixture
def bare_tree(tmp_path: Path) -> Path:
    """A directory with one program, two users, and none of the places where Linux mounts things."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    (tmp_path / "tree" / "bin").mkdir(parents=True)
    (tmp_path / "tree" / "etc").mkdir()
    shutil.copy(busybox, tmp_path / "tree" / "bin" / "busybox")
    for name in ("sh", "id", "pwd", "ls", "touch", "stat", "cat"):
        (tmp_path / "tree" / "bin" / name).symlink_to("busybox")
    (tmp_path / "tree" / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nsue:x:77:78::/home/sue:/bin/sh\n")
    (tmp_path / "tree" / "etc" / "group").write_text("root:x:0:\ncrew:x:79:sue,bob\n")
    return tmp_path / "tree"


async def test_any_directory_will_do_as_a_root(roots: Roots, kernel: str, bare_tree: Path) -> None:
    before = sorted(str(path) for path in bare_tree.rglob("*"))
    wanted = HostRoot(root=str(bare_tree), kernel=kernel)
    script = "pwd; ls /; cat /proc/1/comm; touch /new; touch /tmp/new && ls /tmp; id -u; id -G; echo $HOME"
    result = await run(script, wanted, user="sue", roots=roots)
    said = ["/", "bin", "dev", "etc", "proc", "run", "sys", "tmp", "init", "new", "77", "78", "79", "/home/sue"]
    assert result.stdout.decode().split() == said
    assert b"Read-only file system" in result.stderr
    assert sorted(str(path) for path in bare_tree.rglob("*")) == before


async def test_a_network_leads_out_and_names_are_looked_up(roots: Roots, kernel: str) -> None:
    script = "cat /etc/resolv.conf; cat /proc/net/route; cat /proc/net/fib_trie"
    result = await run(script, HostRoot(kernel=kernel, network=True, directory="/"), roots=roots)
    said = result.stdout.decode()
    assert said.startswith("nameserver 10.0.2.3\n")
    assert "eth0\t00000000\t0202000A" in said
    assert "10.0.2.15" in said
    alone = await run(script, HostRoot(kernel=kernel, directory="/"), roots=roots)
    assert b"eth0" not in alone.stdout


async def test_memory_and_cpus_are_as_many_as_asked_for(roots: Roots, kernel: str) -> None:
    wanted = HostRoot(kernel=kernel, memory=300 << 20, cpus=2, cmdline="kvmctl.word=1", directory="/")
    result = await run("nproc; cat /proc/cmdline; grep MemTotal /proc/meminfo", wanted, roots=roots)
    assert result.stdout.startswith(b"2\n")
    assert b"kvmctl.word=1" in result.stdout
    assert 200 << 10 < int(result.stdout.split()[-2]) < 300 << 10


async def test_the_kernel_for_all_hardware_shares_by_9p_where_that_is_all_there_is(
    roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVMCTL_VIRTIOFSD", "/no/virtiofsd")
    wanted = HostRoot(kernel=build("generic-linux")[0], directory="/")
    result = await run("grep ' / ' /proc/mounts; touch /etc/x; echo x >/etc/passwd", wanted, roots=roots)
    assert b" / 9p ro," in result.stdout
    assert result.stderr.count(b"Read-only file system") == 2
