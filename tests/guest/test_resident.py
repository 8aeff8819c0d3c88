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
from kvmctl.guest import messages
from kvmctl.guest.messages import MESSAGE_MAX, Kind
from kvmctl.guest.poll import CommandInterrupted, CommandSignals, OwnLine
from kvmctl.guest.renewal import SEED_BYTES, Renewal
from kvmctl.guest.resident import PROGRAM, Resident
from kvmctl.guest.residentrun import ResidentPort
from kvmctl.guest.run import Control
from kvmctl.guest.wire import Wire

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


@pytest.fixture
def port(program: str) -> Iterator[Port]:
    """The program's port."""
    port = Port(program)
    yield port
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


# -- somebody new at the port


async def begin(wire: Wire, *argv: str) -> bytes:
    """Have a streamed command run, and give what it says first."""
    request = messages.dumps_command(argv, is_streamed=True)
    assert request is not None
    await messages.send(wire, Kind.RUN, request)
    kind, said = await messages.receive(wire)
    assert kind is Kind.STDOUT
    return said


async def test_who_is_new_ends_what_runs_for_somebody_who_is_gone(port: Port) -> None:
    wire = Wire(port.ours)
    await messages.expect(wire, Kind.READY)
    said = await begin(wire, "sh", "-c", "trap '' TERM; echo $$; while :; do echo busy; done")
    pid = int(said.split()[0])
    await messages.greet(wire)  # past whatever it has still said to the other
    wait_ended(pid)
    assert await begin(wire, "echo", "ours") == b"ours\n"


async def test_who_is_new_is_greeted_though_nobody_was_seen_to_go(port: Port) -> None:
    wire = Wire(port.ours)
    await messages.expect(wire, Kind.READY)
    await messages.greet(wire)
    await messages.greet(wire)
    assert await begin(wire, "echo", "ours") == b"ours\n"


# -- the edge without asyncio


class Journal:
    """What tells of the loss of the program."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.is_watched = threading.Event()
        self._has_come = False

    def watch(self) -> Journal:
        self.is_watched.set()
        return self

    def has_come(self) -> bool:
        return self._has_come

    def fileno(self) -> int:
        return self._read

    def drain(self) -> None:
        os.read(self._read, 1)

    def tell(self, *, is_loss: bool) -> None:
        self._has_come = is_loss
        os.write(self._write, b"!")

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Waiting:
    """A command that is waited for in a thread."""

    def __init__(self, port: Port) -> None:
        self.out, self.err = bytearray(), bytearray()
        self.came = asyncio.Event()
        self.signals = CommandSignals()
        self.journal = Journal()
        self._port = ResidentPort(OwnLine(port.ours), self.signals, self.journal)
        self._set = asyncio.get_running_loop().call_soon_threadsafe

    def is_ready(self, patience: float = 10.0) -> bool:
        return self._port.is_ready(patience=patience)

    async def run(self, *argv: str) -> int | None:
        assert self.is_ready()
        with self.signals:
            try:
                return await asyncio.to_thread(self._port.run, argv, puts=(self._take, self.err.extend))
            finally:
                self._port.close()

    def _take(self, data: bytes) -> None:
        self.out.extend(data)
        self._set(self.came.set)


async def test_it_blocks_until_the_end_and_has_all_of_the_output(port: Port) -> None:
    client = Waiting(port)
    assert await client.run("sh", "-c", "seq 1 50000; echo no >&2; exit 3") == 3
    assert client.out.decode() == "".join(f"{number}\n" for number in range(1, 50001))
    assert client.err == b"no\n"


async def test_what_can_not_be_run_was_not_started(port: Port) -> None:
    assert await Waiting(port).run("no-such-command") is None


async def test_a_forwarded_signal_is_the_commands_and_a_last_one_ends_the_waiting(port: Port) -> None:
    client = Waiting(port)
    running = asyncio.ensure_future(
        client.run("sh", "-c", "trap 'echo heard' INT; echo ready; while :; do sleep 0.1; done")
    )
    await client.came.wait()
    client.came.clear()
    client.signals.forward(2)
    await client.came.wait()
    assert client.out == b"ready\nheard\n"
    client.signals.end(15)
    with pytest.raises(CommandInterrupted):
        await running


async def test_the_loss_of_the_program_is_an_error_and_other_news_are_none(port: Port) -> None:
    client = Waiting(port)
    running = asyncio.ensure_future(client.run("sh", "-c", "echo ready; exec sleep 4715"))
    assert await asyncio.to_thread(client.journal.is_watched.wait, 10)
    client.journal.tell(is_loss=False)
    client.journal.tell(is_loss=True)
    with pytest.raises(AgentError, match="the connection to the program in the guest is broken"):
        await running


def test_a_program_that_says_nothing_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, CommandSignals() as signals:
        port = ResidentPort(OwnLine(ours), signals, Journal())
        assert not port.is_ready(patience=0.1)
        theirs.sendall(b"nonsense" * 8)
        assert not port.is_ready(patience=0.1)
        theirs.close()
        assert not port.is_ready(patience=10)
