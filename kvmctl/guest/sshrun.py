"""A command in the guest through ssh, as `kvmctl.guest.run` has it through the agent: streamed, with its exit code.

The command is started by a shell that first tells its process id and then waits to be told to go on. So a command that
nobody waits for any more can be ended, or never begins: a server does not end what it runs without a terminal when its
client goes away.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import suppress
from signal import SIGTERM
from types import TracebackType
from typing import Final, Self

from kvmctl.errors import HostError, KvmctlError
from kvmctl.guest.run import Control, ExecResult, OnOutput, Sink
from kvmctl.guest.shell import Setting, become
from kvmctl.guest.ssh import Login, find_ssh_failure, ssh_command
from kvmctl.guest.words import check_command

_CHUNK: Final = 65536
_NOISE_MAX: Final = 65536
"""Bytes that a login shell's own start-up may say before the command's shell is heard."""
_SSH_FAILED: Final = 255

_TELL: Final = """
read -r _ _ _ _ group _ </proc/$$/stat 2>/dev/null || group=$$
if [ "$group" != $$ ] && command -v setsid >/dev/null; then exec setsid sh -c "$@"; fi
exec sh -c "$@"
"""
"""Makes the command's processes a group, by which all of them are ended. The server has done so, mostly."""
_BECOME: Final = """
echo "$1 $$" >&2
read -r _ || exit 125
shift
"$@"
exit "$?"
"""
"""Says the token and its process id, waits for the word, and runs the command. A shell reads a line from a pipe byte by
byte, so the rest is the command's. There is a word of its own after the command, so that a signal becomes a number."""
_GOODBYE: Final = 5.0
"""Seconds for ending what nobody waits for: a login takes most of one in a guest without KVM."""
_KILL: Final = 'kill -"$2" "-$1" 2>/dev/null || kill -"$2" "$1"'
_NOTHING: Final = Setting()


def find_ssh() -> str:
    """The system's ssh. Raises HostError, which names the package."""
    found = shutil.which("ssh")
    if found is None:
        raise HostError(
            "ssh was not found", hint="Install it: apt install openssh-client, or dnf install openssh-clients"
        )
    return found


class SshLog:
    """A place for ssh's log that has no name in any file system, and so goes whatever becomes of us."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("ssh-log", os.MFD_CLOEXEC)

    @property
    def path(self) -> str:
        """Where ssh, as a child of this process, opens it: it closes every descriptor that it is given."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def read(self) -> str:
        """What ssh wrote."""
        return os.pread(self._descriptor, 1 << 20, 0).decode(errors="replace").replace("\r", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


async def run_ssh(
    login: Login,
    argv: Sequence[str],
    *,
    setting: Setting = _NOTHING,
    stdin: bytes | AsyncIterable[bytes] = b"",
    on_stdout: OnOutput | None = None,
    on_stderr: OnOutput | None = None,
    control: Control | None = None,
    is_lost: Callable[[], bool] = bool,
) -> ExecResult:
    """Run a command in the guest until it ends, with the guest's PATH of a login over ssh.

    It runs as the user who logs in, and as another only where that one may become it. Whoever stops waiting, by
    cancelling, ends the command too, unless the guest `is_lost` by then. A command that a signal ended is one that
    exits with 128 and the signal's number. Raises HostError, Unreachable, and AgentError for what is no command.
    """
    check_command(argv)
    setting.check()
    find_ssh()
    sinks = Sink(on_stdout), Sink(on_stderr)
    told = _Told(sinks[1])
    words = shlex.join(
        ["sh", "-c", _TELL, "sh", _BECOME, "kvmctl", told.token, *(become(argv, setting) if setting else argv)]
    )
    with SshLog() as log:
        client = ssh_command(login, [words], batch=True, log=log.path)
        ssh = await asyncio.create_subprocess_exec(*client, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        try:
            async with asyncio.TaskGroup() as group:
                forwarding = group.create_task(_forward(control or Control(), login, told))
                status = await _attend(ssh, stdin, sinks[0], told)
                forwarding.cancel()
        except BaseException:
            await _abandon(ssh)
            if told.pid and not is_lost():
                await _signal_command(login, told.pid, SIGTERM)
            raise
        failure = find_ssh_failure(login, log.read()) if status == _SSH_FAILED else None
    if failure is not None:
        raise failure
    truncated = any(sink.truncated for sink in sinks)
    return ExecResult(status, None, sinks[0].kept, sinks[1].kept, truncated)


class _Told:
    """Standard error without the line in which the command's shell tells its process id."""

    def __init__(self, sink: Sink) -> None:
        self.token = f"kvmctl-{secrets.token_hex(16)}"
        self.pid = 0
        self.has_come = asyncio.Event()
        self._sink = sink
        self._held: bytearray | None = bytearray()

    def put(self, data: bytes) -> None:
        if self._held is None:
            self._sink.put(data)
            return
        self._held += data
        before, token, after = self._held.partition(self.token.encode())
        number, end, rest = after.partition(b"\n")
        if token and end and number.strip().isdigit():
            self.pid = int(number)
            self._release(bytes(before + rest))
        elif len(self._held) > _NOISE_MAX:
            self.finish()

    def finish(self) -> None:
        """There is no more to come: the line is not awaited any longer."""
        if self._held is not None:
            self._release(bytes(self._held))

    def _release(self, data: bytes) -> None:
        self._held = None
        self.has_come.set()
        if data:
            self._sink.put(data)


async def _attend(ssh: Process, stdin: bytes | AsyncIterable[bytes], out: Sink, err: _Told) -> int:
    assert ssh.stdout is not None and ssh.stderr is not None  # noqa: S101, PT018  # they are pipes
    async with asyncio.TaskGroup() as group:
        group.create_task(_feed(ssh, stdin, err))
        group.create_task(_drain(ssh.stdout, out))
        group.create_task(_drain(ssh.stderr, err))
    return await ssh.wait()


async def _feed(ssh: Process, stdin: bytes | AsyncIterable[bytes], told: _Told) -> None:
    assert ssh.stdin is not None  # noqa: S101  # it is a pipe
    await told.has_come.wait()
    with suppress(BrokenPipeError, ConnectionResetError):  # a command need not read what it is given
        ssh.stdin.write(b"\n" + (stdin if isinstance(stdin, bytes) else b""))
        await ssh.stdin.drain()
        if not isinstance(stdin, bytes):
            await _feed_pieces(ssh, ssh.stdin, stdin)
    ssh.stdin.close()


async def _feed_pieces(ssh: Process, pipe: asyncio.StreamWriter, pieces: AsyncIterable[bytes]) -> None:
    """Pass on `pieces` as they come, for as long as there is somebody to take them."""

    async def pass_on() -> None:
        async for piece in pieces:
            pipe.write(piece)
            await pipe.drain()

    feeding, ending = asyncio.ensure_future(pass_on()), asyncio.ensure_future(ssh.wait())
    try:
        await asyncio.wait({feeding, ending}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
    finally:
        feeding.cancel()
        ending.cancel()


async def _forward(control: Control, login: Login, told: _Told) -> None:
    """Send the command what `control` was sent, once it runs."""
    await told.has_come.wait()
    while True:
        await control.wake.wait()
        for number in control.take():
            if told.pid:
                await _signal_command(login, told.pid, number)


async def _drain(stream: asyncio.StreamReader, sink: Sink | _Told) -> None:
    while data := await stream.read(_CHUNK):
        sink.put(data)
    if isinstance(sink, _Told):
        sink.finish()


async def _abandon(ssh: Process) -> None:
    with suppress(ProcessLookupError):
        ssh.kill()
    for stream in (ssh.stdout, ssh.stderr):
        # To the end, whatever there is: a transport that is left with data keeps itself from being closed.
        while stream is not None and await stream.read(_CHUNK):
            pass
    await ssh.wait()


async def _signal_command(login: Login, pid: int, number: int) -> None:
    """Signal a command that `run_ssh` started, and all its processes, as far as that can be done in a moment."""
    words = shlex.join(["sh", "-c", _KILL, "kvmctl", str(pid), str(int(number))])
    with suppress(KvmctlError, TimeoutError):
        async with asyncio.timeout(_GOODBYE):
            killer = await asyncio.create_subprocess_exec(
                *ssh_command(login, [words], batch=True), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
            )
            try:
                await killer.wait()
            finally:
                with suppress(ProcessLookupError):
                    killer.kill()
                await killer.wait()
