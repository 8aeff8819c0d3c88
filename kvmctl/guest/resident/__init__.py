"""A program that waits in the guest: it runs commands at once and, where that was frozen, renews each of its forks.

The guest agent can do both, and is slow at it: it has an event loop to wake up, JSON to read, a copy of itself to make
for each command, and is to be asked again and again whether that has ended. Under TCG, where every instruction is
translated anew in every fork, that takes ten times as long as what it is asked for. So a program of two kilobytes waits
at a virtio port of its own. It is put into a guest before that is frozen, and ends when nobody is connected any more;
or the guest has it and starts it, as kvmctl's small Linux does, and it stays for whoever is next. Whatever it can't do,
the agent is asked for. Its source is the assembly beside this file, which tells of the messages; it is assembled by
``scripts/build-renew``.

May import errors, and its neighbours in guest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from kvmctl.errors import AgentError
from kvmctl.guest import messages
from kvmctl.guest.beside import beside
from kvmctl.guest.command import find_end, start_command
from kvmctl.guest.messages import NUMBER, Command, Kind
from kvmctl.guest.renew import put_program
from kvmctl.guest.renewal import Renewal
from kvmctl.guest.run import Control, ExecResult, OnOutput, Sink
from kvmctl.guest.session import PATIENCE
from kvmctl.guest.shell import SHELL, Setting, become
from kvmctl.guest.turn import Turn
from kvmctl.guest.wire import Wire
from kvmctl.guest.words import check_command

PROGRAM: Final = str(Path(__file__).with_name("resident.bin"))
"""Path of the program's bytes."""

_NAME: Final = "kvmctl-resident"
_START: Final = r"""
port=/dev/virtio-ports/$2
if ! [ -c "$port" ]; then
    port=
    for file in /sys/class/virtio-ports/*/name; do
        read -r found <"$file" && [ "$found" = "$2" ] || continue
        port=${file%/name}
        port=/dev/${port##*/}
    done
fi
exec "$1" "$port"
"""
"""Becomes the program ``$1`` at the port ``$2``."""
_START_SECONDS: Final = 3.0
"""Seconds for a guest that starts it to do so: it may be no further than its agent."""
_HELD_SECONDS: Final = 3.0
"""Seconds that output goes on after its command has ended before it is said that somebody else holds it."""


class Resident:
    """A connection to the program. After anything that went wrong it is closed, and the program ends.

    Every method raises AgentError where the connection breaks, and what it says makes no sense.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._wire = Wire(connection)
        self.is_open = True
        """Whether it can be asked for anything."""
        self._is_busy = False

    @property
    def is_free(self) -> bool:
        """Whether it can be asked for something now."""
        return self.is_open and not self._is_busy

    async def wait_ready(self) -> None:
        """Wait until it says that it waits."""
        async with self._exchange():
            await messages.expect(self._wire, Kind.READY)

    async def greet(self) -> None:
        """Wait until it waits for us, whatever it may have told others."""
        async with self._exchange():
            await messages.greet(self._wire)

    async def send_renewal(self, renewal: Renewal) -> None:
        """Tell it to renew the guest, were it before that runs."""
        async with self._exchange():
            await messages.send_renewal(self._wire, renewal)

    async def wait_renewed(self) -> None:
        """Wait until the guest is renewed. Raises AgentError where it can't be."""
        async with self._exchange():
            await messages.wait_renewed(self._wire)

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        stdin: bytes = b"",
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        control: Control | None = None,
    ) -> ExecResult | None:
        """Run a command in the guest as `kvmctl.guest.run.run` does; None where it takes the agent.

        Whoever stops waiting ends the command too.
        """
        setting = Setting(env or {}, user, cwd)
        check_command(argv, stdin=stdin)
        setting.check()
        is_streamed = bool(on_stdout or on_stderr or control)
        request = messages.dumps_command(become(argv, setting) if setting else argv, stdin, is_streamed=is_streamed)
        if request is None or not self.is_free:
            return None
        sinks = Sink(on_stdout), Sink(on_stderr)
        command = Command([sink.put for sink in sinks])
        async with self._exchange():
            await messages.send(self._wire, Kind.RUN, request)
            async with beside(self._deliver(control)) if control is not None else nullcontext():
                while not command.take(*await self._receive(can_be_held=command.has_ended and not is_streamed)):
                    pass
        end = command.end()
        truncated = any(sink.truncated for sink in sinks)
        return end and ExecResult(*end, sinks[0].kept, sinks[1].kept, truncated)

    async def _receive(self, *, can_be_held: bool) -> tuple[Kind, bytes]:
        try:
            async with asyncio.timeout(_HELD_SECONDS if can_be_held else None) as scope:
                return await messages.receive(self._wire)
        except TimeoutError:
            if not scope.expired():
                raise
            raise AgentError(
                "the command has ended, but something that it started still holds its output",
                hint="Start what stays with its output elsewhere (>/dev/null 2>&1 &), or stream the output.",
            ) from None

    async def _deliver(self, control: Control) -> None:
        """Pass on the signals that the command is sent."""
        while True:
            await control.wake.wait()
            for number in control.take():
                await messages.send(self._wire, Kind.SIGNAL, NUMBER.pack(number))

    @asynccontextmanager
    async def _exchange(self) -> AsyncIterator[None]:
        """A question and its answer; what goes wrong meanwhile is the end of the connection."""
        self._is_busy = True
        try:
            with messages.translated():
                yield
        except BaseException:
            self.close()
            raise
        finally:
            self._is_busy = False

    def close(self) -> None:
        """Hang up: the program ends, and what it runs."""
        if self.is_open:
            self.is_open = False
            self._wire.close()


async def find(connect: Callable[[], socket.socket], *, renewal: Renewal) -> Resident | None:
    """The program, where the guest has started it itself, tried once with `renewal`; None where it does not say so."""
    resident = Resident(connect())
    try:
        with suppress(AgentError, TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await resident.greet()
            async with asyncio.timeout(PATIENCE):
                await _prove(resident, renewal)
            return resident
    except BaseException:
        resident.close()
        raise
    resident.close()
    return None


async def install(
    turn: Turn, connect: Callable[[], socket.socket], *, port: str, renewal: Renewal
) -> tuple[Resident, tuple[str, ...]] | None:
    """The program, waiting in the guest at `port`, which `connect` connects to, tried once with `renewal`; its command.

    None where the guest lets none be put there, or has no such port. Raises DeadlineExceeded where the agent does not
    answer.
    """
    program = await asyncio.to_thread(Path(PROGRAM).read_bytes)
    async for path in put_program(turn, _NAME, program):
        command = (SHELL, "-c", _START, "kvmctl", path, port)
        resident = Resident(connect())
        try:
            with suppress(AgentError, TimeoutError):
                await _try(turn, resident, command, renewal)
                return resident, command
        except BaseException:
            resident.close()
            raise
        resident.close()
    return None


async def _try(turn: Turn, resident: Resident, command: Sequence[str], renewal: Renewal) -> None:
    """Start the program, and have it do all that it can. Raises AgentError, TimeoutError."""
    pid = await start_command(turn, command)
    async with asyncio.timeout(PATIENCE):
        try:
            async with beside(_watch(turn, pid)):
                await resident.wait_ready()
        finally:
            turn.give_back()  # it may have been asked something that was not waited for
        await _prove(resident, renewal)


async def _prove(resident: Resident, renewal: Renewal) -> None:
    """Have it do all that it can. Raises AgentError."""
    await resident.send_renewal(renewal)
    await resident.wait_renewed()
    await resident.run([SHELL, "-c", ":"])  # what commands need is in the guest's memory, then


async def _watch(turn: Turn, pid: int) -> None:
    """Raises AgentError when the program has ended."""
    while await find_end(turn, pid) is None:
        await turn.rest()
    raise AgentError("the program in the guest ended as soon as it was started")
