"""The program that waits in a frozen guest: run here, at a terminal's other end in place of a virtio port."""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import socket
import subprocess
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kvmctl.errors import AgentError
from kvmctl.guest.messages import MESSAGE_MAX, Kind
from kvmctl.guest.renewal import SEED_BYTES, Renewal
from kvmctl.guest.resident import PROGRAM, Resident
from kvmctl.guest.run import Control

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64" or not hasattr(os, "pidfd_open"), reason="the program is for x86-64 and Linux 5.3"
)

GIVEN = Renewal(time.time_ns(), bytes(range(SEED_BYTES)))
UNPRIVILEGED = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


class Port:
    """A connection to the program `process`, through a terminal in raw mode, which both ends may hang up."""

    def __init__(self, program: str, *before: str) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        name = os.ttyname(slave)
        os.chmod(name, 0o666)  # for a program without privileges
        self.process = subprocess.Popen(
            [*before, program, name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.ours, self._theirs = socket.socketpair()
        self._slave = slave
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()

    def _pump(self) -> None:
        with suppress(OSError):
            while True:
                readable, _, _ = select.select([self._theirs, self.master], [], [])
                if self.master in readable:
                    self._theirs.sendall(os.read(self.master, 4096))
                if self._theirs in readable:
                    data = self._theirs.recv(65536)
                    if not data:
                        break
                    while data:
                        data = data[os.write(self.master, data) :]
        os.close(self._slave)
        os.close(self.master)

    def close(self) -> None:
        self.ours.close()
        self.process.kill()
        self.process.wait()
        self._thread.join(5)
        self._theirs.close()


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The program as a guest has it."""
    copy = tmp_path / "resident"
    shutil.copy(PROGRAM, copy)
    copy.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents):
        if os.stat(directory).st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)  # for the one without privileges
    return str(copy)


@pytest.fixture
def start(program: str) -> Iterator[Callable[..., Resident]]:
    """Starts the program, with words before its own, and connects to it."""
    ports: list[Port] = []

    def begin(*before: str) -> Resident:
        ports.append(Port(program, *before))
        return Resident(ports[-1].ours)

    yield begin
    for port in ports:
        port.close()


def wait_ended(pid: int) -> None:
    """Wait until the process, which need not be our child, does nothing any more."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], 10)[0]
        finally:
            os.close(descriptor)


async def ready(start: Callable[..., Resident], *before: str) -> Resident:
    resident = start(*before)
    await resident.wait_ready()
    return resident


def test_source_and_client_agree_on_kinds_and_sizes() -> None:
    source = Path(PROGRAM).with_name("resident.S").read_text()
    numbers = dict(re.findall(r"\.set\s+([A-Z]+), (\d+)\s", source))
    assert {kind.name: str(kind.value) for kind in Kind}.items() <= numbers.items()
    assert (numbers["SEED"], numbers["MESSAGE"]) == (str(SEED_BYTES), str(MESSAGE_MAX))


async def test_commands_have_their_input_output_errors_and_exit_code(start: Callable[..., Resident]) -> None:
    resident = await ready(start)
    for number in range(3):
        result = await resident.run(["sh", "-c", f"cat; echo no >&2; exit {number}"], stdin=b"given")
        assert result is not None
        assert (result.exit_code, result.stdout, result.stderr) == (number, b"given", b"no\n")
    killed = await resident.run(["sh", "-c", "kill -9 $$"])
    assert killed is not None
    assert (killed.exit_code, killed.signal) == (137, 9)
    assert resident.is_free


async def test_output_that_takes_many_messages_comes_whole(start: Callable[..., Resident]) -> None:
    resident = await ready(start)
    result = await resident.run(["head", "-c", "1000000", "/dev/zero"])
    assert result is not None
    assert result.stdout == bytes(1_000_000)


async def test_a_setting_is_made_by_the_shell(start: Callable[..., Resident]) -> None:
    resident = await ready(start)
    result = await resident.run(["sh", "-c", "echo $WORD; pwd"], env={"WORD": "a b"}, cwd="/usr")
    assert result is not None
    assert result.stdout == b"a b\n/usr\n"


async def test_what_it_cannot_run_is_left_to_the_agent(start: Callable[..., Resident], tmp_path: Path) -> None:
    resident = await ready(start)
    assert await resident.run(["no-such-command"]) is None
    assert await resident.run([str(tmp_path)]) is None  # a directory
    assert await resident.run(["true"], stdin=bytes(MESSAGE_MAX)) is None
    result = await resident.run(["true"])
    assert result is not None
    assert result.exit_code == 0


async def test_a_second_command_is_left_to_the_agent_while_one_runs(start: Callable[..., Resident]) -> None:
    resident = await ready(start)
    first = asyncio.ensure_future(resident.run(["cat"], stdin=b"first"))
    second = asyncio.ensure_future(resident.run(["true"]))
    result = await first
    assert result is not None
    assert result.stdout == b"first"
    assert await second is None


async def test_streamed_output_comes_as_it_is_written_and_signals_reach_the_command(
    start: Callable[..., Resident],
) -> None:
    resident, control, said = await ready(start), Control(), bytearray()

    def hear(data: bytes) -> None:
        said.extend(data)
        if b"begun" in data:
            control.signal(15)  # once: a shell that is sent another one in its trap begins with that anew

    command = "trap 'echo caught; exit 7' TERM; echo begun; while :; do sleep 0.05; done"
    result = await resident.run(["sh", "-c", command], on_stdout=hear, control=control)
    assert result is not None
    assert (result.exit_code, bytes(said)) == (7, b"begun\ncaught\n")


async def test_a_streamed_command_ends_though_others_have_its_output(start: Callable[..., Resident]) -> None:
    resident, said = await ready(start), bytearray()
    result = await resident.run(["sh", "-c", "sleep 30 & echo $!"], on_stdout=said.extend)
    assert result is not None
    psutil.Process(int(said)).kill()  # it lives


async def test_output_that_others_hold_is_said_to_be_held(start: Callable[..., Resident]) -> None:
    resident = await ready(start)
    with pytest.raises(AgentError, match="something that it started still holds its output"):
        await resident.run(["sh", "-c", "sleep 30 & exit 0"])
    assert not resident.is_open


async def test_who_stops_waiting_ends_the_command_and_all_it_has_started(
    start: Callable[..., Resident], tmp_path: Path
) -> None:
    resident, begun = await ready(start), asyncio.Event()
    pids = bytearray()

    def hear(data: bytes) -> None:
        pids.extend(data)
        if pids.count(b"\n") == 2:
            begun.set()

    command = "sleep 60 & echo $!; echo $$; wait"
    running = asyncio.ensure_future(resident.run(["sh", "-c", command], on_stdout=hear))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not resident.is_open
    for pid in pids.split():
        await asyncio.to_thread(wait_ended, int(pid))


async def waiting(program: str) -> tuple[psutil.Process, psutil.Process]:
    """The program that the test has started, and the process of its next command, which does nothing any more."""
    (found,) = (child for child in psutil.Process().children() if child.exe() == program)
    (following,) = found.children()
    async with asyncio.timeout(10):
        while following.status() != psutil.STATUS_SLEEPING or os.getsid(following.pid) != following.pid:
            await asyncio.sleep(0.01)
    return found, following


async def test_the_process_of_the_next_command_is_there_before_it(start: Callable[..., Resident], program: str) -> None:
    resident = await ready(start)
    for _ in range(2):
        _, following = await waiting(program)
        result = await resident.run(["sh", "-c", "echo $$"])
        assert result is not None
        assert int(result.stdout) == following.pid


async def test_the_process_of_the_next_command_does_not_hold_the_port(
    start: Callable[..., Resident], program: str
) -> None:
    await ready(start)
    found, following = await waiting(program)
    port = found.cmdline()[1]
    held = [{os.readlink(file) for file in Path(f"/proc/{item.pid}/fd").iterdir()} for item in (found, following)]
    assert [port in files for files in held] == [True, False]


async def test_the_process_of_the_next_command_ends_with_the_program(
    start: Callable[..., Resident], program: str
) -> None:
    await ready(start)
    found, following = await waiting(program)
    found.kill()
    await asyncio.to_thread(wait_ended, following.pid)


async def test_a_process_that_was_killed_before_its_command_is_told_of(
    start: Callable[..., Resident], program: str
) -> None:
    resident = await ready(start)
    _, following = await waiting(program)
    following.kill()
    killed = await resident.run(["cat"], stdin=b"given")
    assert killed is not None
    assert killed.signal == 9
    result = await resident.run(["cat"], stdin=b"given")
    assert result is not None
    assert result.stdout == b"given"


@pytest.mark.parametrize("number", range(5))
async def test_a_signal_that_comes_with_the_command_ends_it(start: Callable[..., Resident], number: int) -> None:
    resident = await ready(start)
    for _ in range(number):
        assert await resident.run(["true"]) is not None  # its process is the younger, the more there were
    control = Control()
    control.signal(15)
    result = await resident.run(["sleep", "60"], control=control)
    assert result is not None
    assert result.signal == 15


async def test_output_comes_before_the_end_though_both_are_told_at_once(start: Callable[..., Resident]) -> None:
    resident = await ready(start)
    for size in (1, 40000, 65536):
        result = await resident.run(["head", "-c", str(size), "/dev/zero"])
        assert result is not None
        assert result.stdout == bytes(size)


async def test_one_without_privileges_says_what_it_could_not_do(start: Callable[..., Resident]) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can take its own privileges away (setpriv)")
    resident = await ready(start, *UNPRIVILEGED)
    await resident.send_renewal(GIVEN)
    with pytest.raises(AgentError, match="the program that renews the guest can't seed the random numbers"):
        await resident.wait_renewed()


async def test_a_program_that_ends_is_a_broken_connection(program: str) -> None:
    ours, theirs = socket.socketpair()
    resident = Resident(ours)
    theirs.close()
    with pytest.raises(AgentError, match="broken"):
        await resident.wait_ready()
    assert not resident.is_open
    assert subprocess.run([program, "/nonexistent"], check=False).returncode == 1
    assert subprocess.run([program], check=False).returncode == 1


@pytest.mark.parametrize("said", [b"\x63\0\0\0\0\0\0\0", b"\x10\0\0\0\xff\xff\xff\xff", b"\x14\0\0\0\0\0\0\0"])
async def test_nonsense_of_a_guest_is_told_from_an_answer(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(said)
        with pytest.raises(AgentError):
            await Resident(ours).wait_ready()
