"""Copying files by the agent's own file calls, where the guest has no transfer port.

The same scripts do the work in the guest; a file in a directory for temporary ones stands in for the port.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from kvmctl.errors import AgentError, CopyFailed, KvmctlError
from kvmctl.guest.arrival import begin_arrival
from kvmctl.guest.command import run_captured
from kvmctl.guest.copyscripts import MAKE_SPOOL, RECEIVE, REMOVE, SEND
from kvmctl.guest.departure import Departure, Part
from kvmctl.guest.farend import FarEnd
from kvmctl.guest.files import CHUNK, open_file
from kvmctl.guest.pack import open_member
from kvmctl.guest.progress import Progress
from kvmctl.guest.shell import SHELL

_PIECE: Final = 48 << 10
_GROWTH_MAX: Final = 64 << 20
"""Bytes that a file may turn out to be longer than it was said to be: a log that is written to meanwhile."""


async def deliver(far: FarEnd, departure: Departure, words: Sequence[str], progress: Progress) -> None:
    """Copy `departure` into the guest, whose script is told `words`. Raises CopyFailed, AgentError."""
    async with _spool(far) as spool:
        file = await open_file(far.turn, spool, "w")
        try:
            async with _in_its_words(far):
                for piece in _pieces(departure):
                    await file.write(far.turn, piece)
                    progress.add(len(piece))
                await file.flush(far.turn)
        finally:
            with suppress(KvmctlError):
                await file.close(far.turn)
        await far.start(RECEIVE, "", spool, *words)
        if (await far.wait()).exit_code:
            raise far.failure()


async def collect(far: FarEnd, source: str, place: str, progress: Progress) -> list[str]:
    """Copy `source` out of the guest into its `place`; returns what was left out. Raises CopyFailed, AgentError."""
    async with _spool(far) as spool:
        await far.start(SEND, "", spool, source)
        end = await far.wait()
        said = far.words
        if (end.exit_code and not far.is_harmless) or not said or said[0][:1] == ["end"]:
            raise far.failure()
        arrival, progress.total = begin_arrival(said[0], place)
        with arrival:
            async for piece in _read(far, source if said[0][0] == "file" else spool, limit=progress.total):
                arrival.put(memoryview(piece))
                progress.add(len(piece))
            arrival.finish()
            return arrival.skipped


@asynccontextmanager
async def _in_its_words(far: FarEnd) -> AsyncIterator[None]:
    """What the agent refuses, on a full disk say, is a copy that failed."""
    try:
        yield
    except AgentError as error:
        if not error.error_class:
            raise
        raise CopyFailed(f"{far.summary}: {error.summary}") from error


async def _read(far: FarEnd, path: str, *, limit: int | None) -> AsyncIterator[bytes]:
    file = await open_file(far.turn, path)
    try:
        left = None if limit is None else limit + _GROWTH_MAX
        at_end = False
        while not at_end:
            piece, at_end = await file.read(far.turn, CHUNK)
            if left is not None:
                left -= len(piece)
                if left < 0:
                    raise AgentError(f"{path!r} in the guest does not end where it was said to")
            yield piece
    finally:
        with suppress(KvmctlError):
            await file.close(far.turn)


@asynccontextmanager
async def _spool(far: FarEnd) -> AsyncIterator[str]:
    """A file in the guest for what is on its way; it goes when the context does."""
    end = await run_captured(far.turn, [SHELL, "-c", MAKE_SPOOL, "kvmctl", far.mark])
    path = end.stdout.decode(errors="replace").strip()
    if end.exit_code or not path.endswith(f"/{far.mark}.spool"):
        raise CopyFailed(f"{far.summary}: there is no room for a temporary file in the guest")
    try:
        yield path
    except BaseException:
        await far.abandon()
        raise
    finally:
        with suppress(KvmctlError):
            await run_captured(far.turn, [SHELL, "-c", REMOVE, "kvmctl", path])


def _pieces(departure: Departure) -> Iterator[bytes]:
    """Everything that goes across, in pieces of a size that the agent takes."""
    for piece in departure.pieces():
        if not isinstance(piece, Part):
            yield from (piece[start : start + _PIECE] for start in range(0, len(piece), _PIECE))
            continue
        left = piece.size
        with os.fdopen(open_member(piece.path), "rb", buffering=0) as file:
            while left and (data := file.read(min(left, _PIECE))):
                yield data
                left -= len(data)
        if left and not piece.padded:
            raise CopyFailed(f"{piece.path!r} became shorter while it was copied")
        while left:
            yield bytes(min(left, _PIECE))
            left -= min(left, _PIECE)
