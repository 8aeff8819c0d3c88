"""Streaming a guest command's output and input through the agent's protocol, which knows no streams.

``guest-exec`` takes input in one piece, gives output only when the command has ended, and cuts it at 16 MiB. So the
command writes to two files in the guest, which the agent reads while it runs, and reads from a FIFO which the agent
writes to:

1. a shell makes the files, for its user only (the agent would make them for everybody),
2. the agent opens them,
3. a second shell opens them for the command, removes them, and becomes the command.

The files have no name any more when the command begins, so nothing stays behind whatever becomes of either side, and
the command's exit code and signal are the agent's to report.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import AgentError, KvmctlError
from kvmctl.guest.command import run_captured
from kvmctl.guest.files import File, open_file
from kvmctl.guest.shell import SHELL
from kvmctl.guest.turn import Turn

GOODBYE: Final = 2.0
"""Seconds for ending what nobody waits for any more."""

_MAKE_FILES = """
umask 077
set -C
for place in /var/tmp /tmp /run /dev/shm; do
    true >"$place/$1.stdout" && true >"$place/$1.stderr" &&
        { [ -z "$2" ] || mkfifo "$place/$1.stdin"; } && echo "$place/$1" && exit
    rm -f "$place/$1.stdout" "$place/$1.stderr"
done
exit 1
"""
_REMOVE = """
rm -f "$1.stdout" "$1.stderr" "$1.stdin"
"""


@dataclass(frozen=True, slots=True)
class Stream:
    """One of a command's output files, and where its bytes go."""

    file: File
    put: Callable[[bytes], None]

    async def read(self, turn: Turn) -> tuple[int, bool]:
        """Pass on what has come, at most a chunk; returns how much, and whether that is all there is by now."""
        data, at_end = await self.file.read(turn)
        if data:
            self.put(data)
        return len(data), at_end

    async def drain(self, turn: Turn) -> None:
        """Pass on what is there, and no more: a process that the command left behind may go on writing for ever."""
        _, at_end = await self.read(turn)
        left = 0 if at_end else await self.file.left(turn)
        while left > 0 and not at_end:
            count, at_end = await self.read(turn)
            left -= count


@dataclass(frozen=True, slots=True)
class Spool:
    """The place for one command's streams."""

    stem: str
    """The files' path up to their suffix."""
    streams: tuple[Stream, ...]
    stdin: File | None = None
    """The FIFO it reads from, open for both reading and writing, so that opening it had to wait for nobody."""

    async def close(self, turn: Turn) -> None:
        """Let the agent forget its output. Raises AgentError and DeadlineExceeded."""
        for stream in self.streams:
            await stream.file.close(turn)

    async def remove(self, turn: Turn) -> None:
        """Remove what a command that did not begin has left."""
        await _remove(turn, self.stem)


def make_mark() -> str:
    """A name that nothing else in the guest has."""
    return f"kvmctl-{secrets.token_hex(16)}"


async def find_spool(
    turn: Turn, puts: Sequence[Callable[[bytes], None]], *, mark: str, has_stdin: bool = False
) -> Spool | None:
    """A place named by `mark` for a command's output, which goes to the two `puts`, and for its input.

    None where the guest can't make one. Being cancelled meanwhile leaves nothing in the guest. Raises AgentError and
    DeadlineExceeded.
    """
    making = asyncio.ensure_future(_find_spool(turn, puts, mark, has_stdin=has_stdin))
    try:
        await asyncio.wait([making])  # where the files are made is known when they are
    except asyncio.CancelledError:
        await _unmake(turn, making)
        raise
    return making.result()


async def _unmake(turn: Turn, making: asyncio.Future[Spool | None]) -> None:
    with suppress(KvmctlError, TimeoutError):
        async with asyncio.timeout(GOODBYE):
            spool = await making
            if spool is not None:
                await spool.remove(turn)
                await spool.close(turn)
                if spool.stdin is not None:
                    await spool.stdin.close(turn)


async def _find_spool(
    turn: Turn, puts: Sequence[Callable[[bytes], None]], mark: str, *, has_stdin: bool
) -> Spool | None:
    stem = await make_files(turn, mark, has_stdin=has_stdin)
    if stem is None:
        return None
    try:
        files = [await open_file(turn, f"{stem}.{name}") for name in ("stdout", "stderr")]
        stdin = await open_file(turn, f"{stem}.stdin", "r+") if has_stdin else None
    except AgentError as error:
        if error.error_class:  # guest-file-open is forbidden there
            await _remove(turn, stem)
            return None
        raise
    return Spool(stem, tuple(Stream(file, put) for file, put in zip(files, puts, strict=True)), stdin)


async def make_files(turn: Turn, mark: str, *, has_stdin: bool = False) -> str | None:
    """Make the files of a spool in the guest; their stem, None where it can't. Raises AgentError, DeadlineExceeded."""
    try:
        end = await run_captured(turn, [SHELL, "-c", _MAKE_FILES, "kvmctl", mark, "stdin" if has_stdin else ""])
    except AgentError as error:
        if error.error_class == "GenericError":  # it would run commands, but there is no shell
            return None
        raise
    stem = end.stdout.decode(errors="replace").strip()
    return stem if end.exit_code == 0 and stem.endswith(f"/{mark}") else None


async def _remove(turn: Turn, stem: str) -> None:
    await run_captured(turn, [SHELL, "-c", _REMOVE, "kvmctl", stem])
