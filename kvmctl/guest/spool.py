"""Streaming a guest command's output through the agent's protocol, which knows no streams.

``guest-exec`` gives output only when the command has ended, and cuts it at 16 MiB. So the command writes to two files
in the guest, which the agent reads while it runs:

1. a shell makes the files, for its user only (the agent would make them for everybody),
2. the agent opens them,
3. a second shell opens them for the command, removes them, and becomes the command.

The files have no name any more when the command begins, so nothing stays behind whatever becomes of either side, and
the command's exit code and signal are the agent's to report.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import AgentError, KvmctlError
from kvmctl.guest.command import run_captured
from kvmctl.guest.reply import take, take_bytes
from kvmctl.guest.turn import Turn

SHELL: Final = "/bin/sh"
GOODBYE: Final = 2.0
"""Seconds for ending what nobody waits for any more."""
_CHUNK = 65536
"""Bytes read at once; more gains little (measured: 48 to 64 KiB is near the top)."""

_MAKE_FILES = """
umask 077
set -C
for place in /var/tmp /tmp /run /dev/shm; do
    true >"$place/$1.stdout" && true >"$place/$1.stderr" && echo "$place/$1" && exit
done
exit 1
"""
_BECOME = """
exec >>"$1.stdout" 2>>"$1.stderr"
rm -f "$1.stdout" "$1.stderr"
shift
while [ "$1" != -- ]; do export "$1"; shift; done
shift
exec "$@"
"""
_REMOVE = """
rm -f "$1.stdout" "$1.stderr"
[ -z "$2" ] || kill "$2"
"""
_FILES = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Stream:
    """One of a command's two files: the agent's handle on it, and where its bytes go."""

    handle: int
    put: Callable[[bytes], None]

    async def read(self, turn: Turn) -> tuple[int, bool]:
        """Pass on what has come, at most a chunk; returns how much, and whether that is all there is by now."""
        reply = await turn.execute("guest-file-read", {"handle": self.handle, "count": _CHUNK})
        data = take_bytes(reply, "buf-b64")
        if len(data) > _CHUNK:
            raise AgentError(f"the guest agent read {len(data)} bytes where {_CHUNK} were asked for")
        if data:
            self.put(data)
        return len(data), take(reply, "eof", bool) or not data

    async def drain(self, turn: Turn) -> None:
        """Pass on what is there, and no more: a process that the command left behind may go on writing for ever."""
        _, at_end = await self.read(turn)
        left = 0 if at_end else await self._left(turn)
        while left > 0 and not at_end:
            count, at_end = await self.read(turn)
            left -= count

    async def _left(self, turn: Turn) -> int:
        here = await self._seek(turn, 0, "cur")
        end = await self._seek(turn, 0, "end")
        await self._seek(turn, here, "set")
        return end - here

    async def _seek(self, turn: Turn, offset: int, whence: str) -> int:
        arguments = {"handle": self.handle, "offset": offset, "whence": whence}
        return take(await turn.execute("guest-file-seek", arguments), "position", int)

    async def close(self, turn: Turn) -> None:
        """Let the agent forget the file."""
        await turn.execute("guest-file-close", {"handle": self.handle})


@dataclass(frozen=True, slots=True)
class Spool:
    """The place for one command's output, and its two streams."""

    stem: str
    """The files' path up to their suffix."""
    streams: tuple[Stream, ...]

    def wrap(self, argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
        """`argv` as started by the shell that becomes it; `env` is added to the agent's own environment."""
        exports = [f"{name}={value}" for name, value in env.items()]
        return [SHELL, "-c", _BECOME, "kvmctl", self.stem, *exports, "--", *argv]

    async def close(self, turn: Turn) -> None:
        """Let the agent forget the files. Raises AgentError and DeadlineExceeded."""
        for stream in self.streams:
            await stream.close(turn)

    async def remove(self, turn: Turn, *, kill: int | None = None) -> None:
        """Remove what a command that did not begin has left, and end the one that did."""
        await _remove(turn, self.stem, kill=kill)


async def find_spool(turn: Turn, puts: Sequence[Callable[[bytes], None]]) -> Spool | None:
    """A place for output of a command, which goes to the two `puts`; None where the guest can't make one.

    Being cancelled meanwhile leaves nothing in the guest. Raises AgentError and DeadlineExceeded.
    """
    making = asyncio.ensure_future(_find_spool(turn, puts))  # where the files are made is known when they are
    try:
        await asyncio.wait([making])
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


async def _find_spool(turn: Turn, puts: Sequence[Callable[[bytes], None]]) -> Spool | None:
    stem = await _make_files(turn)
    if stem is None:
        return None
    try:
        streams = [await _open(turn, f"{stem}.{name}", put) for name, put in zip(_FILES, puts, strict=True)]
    except AgentError as error:
        if error.error_class:  # guest-file-open is forbidden there
            await _remove(turn, stem)
            return None
        raise
    return Spool(stem, tuple(streams))


async def _make_files(turn: Turn) -> str | None:
    name = f"kvmctl-{secrets.token_hex(16)}"
    try:
        end = await run_captured(turn, [SHELL, "-c", _MAKE_FILES, "kvmctl", name])
    except AgentError as error:
        if error.error_class == "GenericError":  # it would run commands, but there is no shell
            return None
        raise
    stem = end.stdout.decode(errors="replace").strip()
    return stem if end.exit_code == 0 and stem.endswith(f"/{name}") else None


async def _open(turn: Turn, path: str, put: Callable[[bytes], None]) -> Stream:
    handle = await turn.execute("guest-file-open", {"path": path, "mode": "r"})
    return Stream(take({"handle": handle}, "handle", int), put)


async def _remove(turn: Turn, stem: str, *, kill: int | None = None) -> None:
    await run_captured(turn, [SHELL, "-c", _REMOVE, "kvmctl", stem, *([str(kill)] if kill else [])])
