"""Running a command in the guest: output as it comes, its exit code at the end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError
from kvmctl.guest.agent import Agent
from kvmctl.guest.command import End, check_command, find_end, run_captured, start_command
from kvmctl.guest.spool import GOODBYE, SHELL, Spool, find_spool
from kvmctl.guest.turn import Turn

OnOutput: TypeAlias = Callable[[bytes], None]
"""Takes output as it comes, in pieces of any size."""

KEEP_MAX: Final = 64 << 20
"""Bytes of one stream that are kept for the result; a callback has no limit."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What became of a command in the guest."""

    exit_code: int
    """The command's own; 128 and the signal's number if a signal ended it; 126 and 127 as shells have it."""
    signal: int | None
    stdout: bytes
    """All of it, but for what went to a callback."""
    stderr: bytes
    truncated: bool
    """There was more output than could be kept."""


class Sink:
    """Where one stream goes: to the callback, or into memory up to `KEEP_MAX`."""

    def __init__(self, callback: OnOutput | None) -> None:
        self._callback = callback
        self._kept = bytearray()
        self.truncated = False

    def put(self, data: bytes) -> None:
        """Pass on `data`, or keep what there is room for."""
        if self._callback is not None:
            self._callback(data)
            return
        room = KEEP_MAX - len(self._kept)
        self._kept += data[:room]
        self.truncated |= len(data) > room

    @property
    def kept(self) -> bytes:
        """What was kept."""
        return bytes(self._kept)


async def run(
    agent: Agent,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    on_stdout: OnOutput | None = None,
    on_stderr: OnOutput | None = None,
) -> ExecResult:
    """Run a command in the guest until it ends; found on the guest's PATH where it has no slash.

    `env` is added to the agent's own environment. Whoever stops waiting, by cancelling, ends the command too. In a
    guest without ``/bin/sh`` the output comes at the end and `env` is refused. Raises AgentError, DeadlineExceeded.
    """
    check_command(argv, stdin=stdin)
    check_env(env or {})
    sinks = Sink(on_stdout), Sink(on_stderr)
    async with Turn(agent) as turn:
        if spool := await find_spool(turn, [sink.put for sink in sinks]):
            end = await _run_streamed(turn, spool, spool.wrap(argv, env or {}), stdin)
        else:
            end = await _run_at_once(turn, argv, env or {}, stdin)
            sinks[0].put(end.stdout)
            sinks[1].put(end.stderr)
    truncated = end.truncated or any(sink.truncated for sink in sinks)
    return ExecResult(end.exit_code, end.signal, sinks[0].kept, sinks[1].kept, truncated)


async def _run_at_once(turn: Turn, argv: Sequence[str], env: Mapping[str, str], stdin: bytes) -> End:
    if env:
        raise AgentError(f"the guest has no {SHELL}, which it takes to set environment variables for a command")
    return await run_captured(turn, argv, stdin=stdin)


async def _run_streamed(turn: Turn, spool: Spool, argv: Sequence[str], stdin: bytes) -> End:
    starting = asyncio.ensure_future(start_command(turn, argv, stdin=stdin))  # to be ended, it must be known
    try:
        await asyncio.wait([starting])
        end = await _follow(turn, spool, starting.result())
        await spool.close(turn)
        return end
    except DeadlineExceeded:
        raise  # the agent would not hear a goodbye either
    except BaseException:
        await _abandon(turn, spool, starting)
        raise


async def _follow(turn: Turn, spool: Spool, pid: int) -> End:
    while (end := await find_end(turn, pid)) is None:
        counts = [(await stream.read(turn))[0] for stream in spool.streams]
        if any(counts):
            turn.note_activity()
        await turn.rest()
    for stream in spool.streams:
        await stream.drain(turn)
    return end


async def _abandon(turn: Turn, spool: Spool, starting: asyncio.Future[int]) -> None:
    """End a command that nobody waits for, as far as that can be done in a moment."""
    try:
        with suppress(KvmctlError, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await asyncio.wait([starting])
                turn.give_back()  # an answer may be on its way: the goodbye needs a channel that is in step
                await spool.remove(turn, kill=None if starting.exception() else starting.result())
                await spool.close(turn)
    finally:
        starting.cancel()


def check_env(env: Mapping[str, str]) -> None:
    """Raises AgentError for what no shell could export."""
    for name, value in env.items():
        if not _NAME.fullmatch(name) or "\0" in value:
            raise AgentError(f"{name!r} = {value!r} can't be an environment variable in the guest")
