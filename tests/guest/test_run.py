"""Commands in the guest: output as it comes, exit codes passed through, nothing left behind.

Each test runs against the fake agent and against QEMU's own, which are to be alike.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import select
import signal
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from interruption import Interruption

from kvmctl.errors import AgentError, DeadlineExceeded
from kvmctl.guest import run as guest_run
from kvmctl.guest.agent import Agent, Connect
from kvmctl.guest.run import Control, ExecResult, run
from kvmctl.testing.fakeagent import Channel, FakeAgent, Refusal, silent

from .local_agent import LocalCommands


@pytest.fixture
def mark() -> str:
    """What the names of this test's files begin with, so that they are told from those of tests beside it."""
    return secrets.token_hex(8)


def leftovers(mark: str) -> list[Path]:
    return [path for place in ("/var/tmp", "/tmp", "/run", "/dev/shm") for path in Path(place).glob(f"*{mark}*")]


SAY_AND_READ = ["sh", "-c", "echo out; exec cat"]

Running: TypeAlias = "asyncio.Future[ExecResult]"


async def happens(event: asyncio.Event, *, before: Running) -> None:
    """Wait for `event`; a command that ends or fails before it does so here, and not by a test that waits for ever."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait({waiting, before}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        pytest.fail(f"the command has ended: {before.result()}")


async def test_output_and_exit_code_come_back(agent: Agent) -> None:
    result = await run(agent, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert result == ExecResult(exit_code=3, signal=None, stdout=b"out\n", stderr=b"err\n", truncated=False)


async def test_output_is_streamed_while_the_command_runs(agent: Agent, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    came: list[bytes] = []

    def on_stdout(data: bytes) -> None:
        came.append(data)
        if b"".join(came) == b"first\n":
            gate.write_text("go on\n")  # only now can the command come to its end

    result = await run(agent, ["sh", "-c", 'echo first; cat "$0"', str(gate)], on_stdout=on_stdout)
    assert b"".join(came) == b"first\ngo on\n"
    assert (result.exit_code, result.stdout) == (0, b"")


async def test_large_output_comes_whole_and_in_order(agent: Agent) -> None:
    result = await run(agent, ["sh", "-c", "seq 1 300000; seq 1 20000 >&2"])
    assert result.stdout == b"".join(b"%d\n" % number for number in range(1, 300001))
    assert result.stderr == b"".join(b"%d\n" % number for number in range(1, 20001))


async def test_signal_is_told_apart_from_an_exit_code(agent: Agent) -> None:
    result = await run(agent, ["sh", "-c", "kill -9 $$"])
    assert (result.exit_code, result.signal) == (137, 9)


async def test_words_arrive_as_they_were_given(agent: Agent) -> None:
    words = ["", " a  b ", "--", "-n", "$HOME", "'\"\\", "*", "a\nb", "ünïcode"]
    result = await run(agent, ["printf", "[%s]", *words])
    assert result.stdout.decode() == "".join(f"[{word}]" for word in words)


async def test_input_is_the_commands_stdin(agent: Agent) -> None:
    data = bytes(range(256)) * 4000
    assert (await run(agent, ["cat"], stdin=data)).stdout == data


async def test_environment_is_added_to_the_agents_own(agent: Agent) -> None:
    result = await run(agent, ["sh", "-c", 'echo "$A|$B|${PATH:+has path}"'], env={"A": "x y=z", "B": "-- $HOME"})
    assert result.stdout == b"x y=z|-- $HOME|has path\n"


@pytest.mark.parametrize(
    ("command", "code"), [("/no/such/command", 127), ("no-such-command", 127), ("/etc/passwd", 126)]
)
async def test_command_that_can_not_be_run_exits_as_shells_have_it(agent: Agent, command: str, code: int) -> None:
    result = await run(agent, [command])
    assert result.exit_code == code
    assert command.encode() in result.stderr


async def test_nothing_stays_behind_in_the_guest(agent: Agent) -> None:
    said: list[bytes] = []
    await run(agent, ["sh", "-c", "readlink /proc/$$/fd/1 /proc/$$/fd/2"], on_stdout=said.append)
    files = b"".join(said).decode().splitlines()
    assert len(files) == 2
    assert not any(Path(file.removesuffix(" (deleted)")).exists() for file in files)


async def test_output_files_have_lost_their_names_while_the_command_runs(agent: Agent) -> None:
    said: list[bytes] = []
    wait = "until readlink /proc/$$/fd/1 | grep -q deleted; do :; done; readlink /proc/$$/fd/1 /proc/$$/fd/2"
    await run(agent, ["sh", "-c", wait], on_stdout=said.append)
    assert all(file.endswith(" (deleted)") for file in b"".join(said).decode().splitlines())


async def test_output_is_for_its_user_only_and_the_command_has_the_umask_it_would_have(agent: Agent) -> None:
    said: list[bytes] = []
    await run(agent, ["sh", "-c", "stat -L -c %a /proc/$$/fd/1 /proc/$$/fd/2; umask"], on_stdout=said.append)
    inherited = (await run(agent, ["sh", "-c", "umask"])).stdout
    assert b"".join(said) == b"600\n600\n" + inherited


async def test_output_is_not_lost_where_the_shell_is_slow_to_open_what_it_has_made(mark: str) -> None:
    table = LocalCommands().table()
    run_any = table["guest-exec"]

    def slow(arguments: dict[str, Any]) -> object:
        words = [word.replace('exec >>"$stem', 'sleep 0.3; exec >>"$stem') for word in arguments["arg"]]
        return run_any(arguments | {"arg": words})

    said: list[bytes] = []
    async with FakeAgent({**table, "guest-exec": slow}) as fake:
        name = f"kvmctl-{mark}"
        result = await run(Agent(fake.connect), ["sh", "-c", "echo out"], on_stdout=said.append, mark=name)
    assert (result.exit_code, b"".join(said)) == (0, b"out\n")
    assert leftovers(mark) == []


async def test_guest_without_room_for_files_gives_its_output_at_the_end_and_runs_it_once(tmp_path: Path) -> None:
    commands = LocalCommands()
    table = commands.table()
    run_any = table["guest-exec"]

    def without_places(arguments: dict[str, Any]) -> object:
        words = [word.replace("/var/tmp /tmp /run /dev/shm", "/nowhere") for word in arguments["arg"]]
        return run_any(arguments | {"arg": words})

    said: list[bytes] = []
    async with FakeAgent({**table, "guest-exec": without_places}) as fake:
        ran = tmp_path / "ran"
        result = await run(Agent(fake.connect), ["sh", "-c", f"echo once >>{ran}; echo out"], on_stdout=said.append)
    assert (result.exit_code, said, ran.read_text()) == (0, [b"out\n"], "once\n")


async def test_command_that_leaves_a_writer_behind_still_ends(agent: Agent, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    said: list[bytes] = []
    command = ["sh", "-c", 'while :; do echo y; done & echo $! >"$0"', str(pid)]
    result = await run(agent, command, on_stdout=said.append)
    os.kill(int(pid.read_text()), 9)
    assert result.exit_code == 0
    assert set(b"".join(said)) <= set(b"y\n")


async def test_commands_of_many_clients_run_side_by_side(agent: Agent) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(agent, ["sh", "-c", f"sleep 0.1; echo {n}; exit {n}"])) for n in range(8)]
    assert [(task.result().exit_code, task.result().stdout) for task in tasks] == [
        (number, b"%d\n" % number) for number in range(8)
    ]


async def test_cancelled_command_is_ended(agent: Agent, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    started = asyncio.Event()
    try:
        command = ["sh", "-c", 'exec 3>"$0"; echo started; exec sleep 1000', str(alive)]
        task = asyncio.ensure_future(run(agent, command, on_stdout=lambda _: started.set()))
        await happens(started, before=task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # It is readable once the command, which alone held the other end, is gone: nothing was ever written to it.
        assert await asyncio.to_thread(select.select, [reader], [], [], 10) == ([reader], [], [])
    finally:
        os.close(reader)


async def test_callback_that_fails_ends_the_command_and_is_raised(agent: Agent) -> None:
    def fail(_: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await run(agent, ["sh", "-c", "echo; exec sleep 1000"], on_stdout=fail)


@pytest.mark.parametrize("argv", [[], [""], ["true", "a\0b"], ["true", "\udcff"]])
async def test_command_that_no_agent_can_take_is_refused(agent: Agent, argv: list[str]) -> None:
    with pytest.raises(AgentError):
        await run(agent, argv)


@pytest.mark.parametrize("name", ["", "1A", "A=B", "A B", "--"])
async def test_environment_variable_of_no_name_is_refused(agent: Agent, name: str) -> None:
    with pytest.raises(AgentError, match="can't be an environment variable"):
        await run(agent, ["true"], env={name: "x"})


async def test_guest_without_a_shell_gives_its_output_at_the_end() -> None:
    commands = LocalCommands()
    table = commands.table()
    run_any = table["guest-exec"]

    def run_but_no_shell(arguments: dict[str, object]) -> object:
        if arguments["path"] == "/bin/sh":
            raise Refusal("GenericError", "Failed to execute child process")
        return run_any(arguments)

    async with FakeAgent({**table, "guest-exec": run_but_no_shell}) as fake:
        result = await run(Agent(fake.connect), ["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert result == ExecResult(exit_code=3, signal=None, stdout=b"out\n", stderr=b"err\n", truncated=False)
        with pytest.raises(AgentError, match="has no /bin/sh"):
            await run(Agent(fake.connect), ["true"], env={"A": "b"})


async def test_guest_that_forbids_files_gives_its_output_at_the_end() -> None:
    commands = LocalCommands()
    table = {name: command for name, command in commands.table().items() if not name.startswith("guest-file")}
    run_any, asked = table["guest-exec"], []

    def note(arguments: dict[str, Any]) -> object:
        asked.append(arguments["arg"])
        return run_any(arguments)

    said: list[bytes] = []
    async with FakeAgent({**table, "guest-exec": note}) as fake:
        await run(Agent(fake.connect), ["echo", "out"], on_stdout=said.append)
    assert said == [b"out\n"]
    assert asked == [["out"]]  # nothing was started that would have needed them


async def test_guest_that_forbids_commands_is_an_agent_error() -> None:
    async with FakeAgent() as fake:
        with pytest.raises(AgentError, match="refused 'guest-exec'") as caught:
            await run(Agent(fake.connect), ["true"])
    assert caught.value.error_class == "CommandNotFound"


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"exited": 1},
        {"exited": True, "exitcode": "0"},
        {"exited": True, "exitcode": True},
        {"exited": True, "out-data": "%"},
    ],
)
async def test_nonsense_for_a_status_is_an_agent_error(status: object) -> None:
    async with FakeAgent({"guest-exec": lambda _: {"pid": 1}, "guest-exec-status": lambda _: status}) as fake:
        with pytest.raises(AgentError, match="guest agent's"):
            await run(Agent(fake.connect), ["true"])


async def test_command_that_never_ends_is_the_callers_to_cut_off() -> None:
    table = {"guest-exec": lambda _: {"pid": 1}, "guest-exec-status": lambda _: {"exited": False}}
    async with FakeAgent(table) as fake:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await run(Agent(fake.connect), ["true"])


async def test_channel_is_given_to_others_while_a_command_is_quiet(connect: Connect, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    agent = Agent(connect)
    started = asyncio.Event()
    command = ["sh", "-c", 'echo; exec cat "$0"', str(gate)]
    quiet = asyncio.ensure_future(run(agent, command, on_stdout=lambda _: started.set()))
    await happens(started, before=quiet)
    for _ in range(20):
        await agent.ping()
    assert not quiet.done()
    await asyncio.to_thread(gate.write_text, "done")
    assert (await quiet).exit_code == 0


async def test_agent_that_stops_answering_in_mid_command_is_a_deadline_exceeded() -> None:
    async def obey_at_first(fake: FakeAgent, channel: Channel) -> None:
        while line := await channel.request():
            if b"guest-file-read" in line:
                await silent(fake, channel)
            await fake.answer(channel, line.lstrip(b"\xff"))

    commands = LocalCommands()
    async with FakeAgent(commands.table(), behaviour=obey_at_first) as fake:
        with pytest.raises(DeadlineExceeded, match="did not answer 'guest-file-read'"):
            await run(Agent(fake.connect, patience=0.3), ["sleep", "1000"], on_stdout=lambda _: None)
    commands.clear()


async def test_a_command_that_is_cancelled_at_any_step_leaves_nothing_in_the_guest(mark: str, tmp_path: Path) -> None:
    for step in count(1):
        commands = LocalCommands()
        async with FakeAgent(commands.table()) as fake:
            agent = Agent(fake.connect)
            interruption = Interruption(step)
            await interruption.run(
                lambda agent=agent, name=f"kvmctl-{mark}-{step}": run(
                    agent, ["sh", "-c", "echo out; exec cat"], stdin=b"in", on_stdout=lambda _: None, mark=name
                )
            )
        assert leftovers(mark) == [], f"cancelled at step {step}"
        commands.clear()
        if interruption.steps < step:
            break
    assert step > 10


async def test_a_string_is_not_taken_for_a_list_of_letters(agent: Agent) -> None:
    with pytest.raises(AgentError, match="'true' is one word, and a command is a list"):
        await run(agent, "true")


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def test_input_that_comes_in_pieces_arrives_whole_and_ends(agent: Agent) -> None:
    data = bytes(range(256)) * 2000
    result = await run(agent, ["cat"], stdin=pieces(data[:1], data[1:5000], data[5000:]))
    assert result.stdout == data


async def test_input_is_answered_before_its_end(agent: Agent) -> None:
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def conversation() -> AsyncIterator[bytes]:
        for word in (b"one\n", b"two\n", b"three\n"):
            yield word
            assert await answers.get() == b"<" + word.strip() + b">\n"

    command = ["sh", "-c", 'while read -r word; do echo "<$word>"; done']
    assert (await run(agent, command, stdin=conversation(), on_stdout=answers.put_nowait)).exit_code == 0


async def test_command_that_does_not_read_holds_its_input_back_and_loses_none(agent: Agent, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    given = 0
    data = bytes(range(256)) * 16

    async def much() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(1024):
            given += 1
            yield data

    command = ["sh", "-c", 'echo; cat "$0"; exec cat', str(gate)]
    said: list[bytes] = []
    task = asyncio.ensure_future(run(agent, command, stdin=much(), on_stdout=said.append))
    while given < 256:  # then its own megabyte is full; the pipe has been for long
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # nothing is waited for: in this time, more would come if it could
    assert given < 400
    await asyncio.to_thread(gate.write_text, "")
    await task
    assert b"".join(said)[1:] == data * 1024


async def test_command_that_ends_without_its_input_is_not_waited_for(agent: Agent) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    assert (await run(agent, ["sh", "-c", "exit 5"], stdin=endless())).exit_code == 5


async def test_input_that_fails_ends_the_command_and_is_raised(agent: Agent) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        await run(agent, ["sh", "-c", "cat >/dev/null; exec sleep 1000"], stdin=broken())


async def test_signal_reaches_the_command_and_what_it_has_started(agent: Agent) -> None:
    control = Control()
    said: list[bytes] = []

    def on_stdout(data: bytes) -> None:
        said.append(data)
        control.signal(signal.SIGINT)

    command = ["sh", "-c", "trap 'echo got it; exit 7' INT; echo ready; sleep 1000; echo never"]
    result = await run(agent, command, on_stdout=on_stdout, control=control)
    assert (result.exit_code, b"".join(said).splitlines()[:2]) == (7, [b"ready", b"got it"])


async def test_command_that_a_forwarded_signal_ends_says_which(agent: Agent) -> None:
    control = Control()
    result = await run(agent, ["sleep", "1000"], on_stdout=lambda _: None, control=signalled(control, signal.SIGTERM))
    assert (result.exit_code, result.signal) == (128 + 15, 15)


def signalled(control: Control, number: signal.Signals) -> Control:
    control.signal(number)
    return control


as_root = pytest.mark.skipif(os.getuid() != 0, reason="an agent that is not root can't become somebody else")


@as_root
@pytest.mark.parametrize("streamed", [False, True])
async def test_command_runs_where_and_as_whom_it_is_told(agent: Agent, tmp_path: Path, streamed: bool) -> None:
    said: list[bytes] = []
    command = ["sh", "-c", "pwd; id -un; echo $HOME; exit 4"]
    on_stdout = said.append if streamed else None
    result = await run(agent, command, user="nobody", cwd="/var", on_stdout=on_stdout)
    words = ["/var", "nobody", pwd.getpwnam("nobody").pw_dir]
    assert ((b"".join(said) or result.stdout).decode().split(), result.exit_code) == (words, 4)


@as_root
@pytest.mark.parametrize("streamed", [False, True])
async def test_another_user_may_open_its_output_again_and_nothing_else_becomes_theirs(
    connect: Connect, streamed: bool
) -> None:
    before = os.stat("/dev/null").st_uid
    command = ["sh", "-c", "echo out >>/dev/stdout && echo err >>/dev/stderr"]
    options: dict[str, Any] = {"on_stdout": lambda _: None} if streamed else {}
    result = await run(Agent(connect), command, user="nobody", **options)
    assert (result.exit_code, result.stderr) == (0, b"err\n")
    assert os.stat("/dev/null").st_uid == before


@as_root
async def test_words_arrive_as_they_were_given_for_another_user_too(agent: Agent) -> None:
    words = ["", " a  b ", "--", "-n", "$HOME", "'\"\\", "*", "a\nb", "ünïcode"]
    result = await run(agent, ["printf", "[%s]", *words], user="nobody")
    assert result.stdout.decode() == "".join(f"[{word}]" for word in words)


async def test_user_and_directory_that_are_not_there_are_said(agent: Agent) -> None:
    result = await run(agent, ["true"], user="no-such-user")
    assert (result.exit_code, result.stderr) == (126, b"kvmctl: the guest has no user 'no-such-user'\n")
    result = await run(agent, ["true"], cwd="/no/such/place")
    assert result.exit_code == 126
    assert b"/no/such/place" in result.stderr


@pytest.mark.parametrize("user", ["", "-x", "a b", "a'b", "a;b", "a:b"])
async def test_user_of_no_name_is_refused(agent: Agent, user: str) -> None:
    with pytest.raises(AgentError, match="can't be a user"):
        await run(agent, ["true"], user=user)


async def test_output_that_somebody_else_holds_is_said_and_not_waited_for(
    qemu_ga: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_run, "_HELD_CHECK", 0.1)
    pid = tmp_path / "pid"
    with pytest.raises(AgentError, match="something that it started still holds its output"):
        await run(Agent(qemu_ga), ["sh", "-c", 'sleep 1000 & echo $! >"$0"', str(pid)])
    os.kill(int(pid.read_text()), 9)


async def test_output_that_the_agent_cut_is_said_to_be(agent: Agent) -> None:
    result = await run(agent, ["head", "-c", str(17 << 20), "/dev/zero"])
    assert result.truncated == (len(result.stdout) < 17 << 20)
    assert len(result.stdout) >= 16 << 20


async def test_agent_that_ends_in_mid_command_is_an_agent_error() -> None:
    async def leave(fake: FakeAgent, channel: Channel) -> None:
        while line := await channel.request():
            if b"guest-file-read" in line:
                return
            await fake.answer(channel, line.lstrip(b"\xff"))

    commands = LocalCommands()
    async with FakeAgent(commands.table(), behaviour=leave) as fake:
        with pytest.raises(AgentError, match="channel was closed during 'guest-file-read'"):
            await run(Agent(fake.connect), ["sleep", "1000"], on_stdout=lambda _: None)
    commands.clear()


@pytest.mark.parametrize("reply", [{"count": 1 << 40}, {"count": "1"}, {}, [], {"count": True}])
async def test_nonsense_about_what_was_written_is_an_agent_error(reply: object) -> None:
    commands = LocalCommands()
    async with FakeAgent({**commands.table(), "guest-file-write": lambda _: reply}) as fake:
        with pytest.raises(AgentError):
            await asyncio.wait_for(run(Agent(fake.connect), ["cat"], stdin=pieces(b"x"), cwd="/"), 10)
    commands.clear()
