"""Copying files into the guest and out of it, whole or not at all.

Through the transfer port where the guest has one, several times as fast as the agent's own file calls, which do it
elsewhere. At either end a file is made beside its place and moved there when all of it has come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from posixpath import basename
from typing import Literal, TypeAlias

from kvmctl.errors import AgentError, CopyFailed, DeadlineExceeded
from kvmctl.guest import copyagent
from kvmctl.guest.agent import Agent
from kvmctl.guest.arrival import begin_arrival, choose_place
from kvmctl.guest.beside import beside
from kvmctl.guest.copyscripts import NO_PORT, RECEIVE, SEND
from kvmctl.guest.departure import Departure, Part, look_at
from kvmctl.guest.farend import FarEnd
from kvmctl.guest.pack import open_member
from kvmctl.guest.port import Connect, Port
from kvmctl.guest.progress import OnProgress, Progress
from kvmctl.guest.turn import Turn
from kvmctl.guest.words import make_mark
from kvmctl.plan.model import TRANSFER_PORT

Through: TypeAlias = Literal["port", "agent"]
Work: TypeAlias = Callable[[Port, FarEnd], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied, and how."""

    path: str
    """Where it was to go; for a copy out of the guest, where it is now."""
    size: int
    """Bytes that went across, an archive's where it was a directory."""
    seconds: float
    through: Through
    """The port for it, or the agent's file calls, which are several times as slow."""
    skipped: tuple[str, ...] = ()
    """What is neither file, directory nor link, and was left out; the first hundred of it."""


async def copy_in(
    agent: Agent,
    source: str,
    target: str,
    *,
    connect: Connect | None = None,
    mark: str = "",
    on_progress: OnProgress | None = None,
) -> Copied:
    """Copy the file or directory `source` of this host to `target` in the guest; into it, if it is a directory there.

    Modes, times and symbolic links are kept; the files are the agent's user's, root. A directory is merged with one
    that is there. `connect` is to the transfer port, where there is one; the copy bears `mark` in the guest, a name
    from `make_mark`. Raises NotFound, CopyFailed, AgentError, DeadlineExceeded.
    """
    began = time.monotonic()
    departure = await asyncio.to_thread(look_at, source)
    progress = Progress(on_progress, departure.size)
    words = [*departure.words, _absolute(target)]

    async def work(connection: Port, far: FarEnd) -> None:
        await far.start(RECEIVE, TRANSFER_PORT, "", *words)
        await _deliver(connection, far, departure, progress)

    async with Turn(agent) as turn:
        far = FarEnd(turn, mark or make_mark(), f"cannot copy {source!r} into the guest")
        through = await _through(connect, far, work)
        if through == "agent":
            await copyagent.deliver(far, departure, words, progress)
    return Copied(target, departure.size, time.monotonic() - began, through, departure.skipped)


async def copy_out(
    agent: Agent,
    source: str,
    target: str,
    *,
    connect: Connect | None = None,
    mark: str = "",
    on_progress: OnProgress | None = None,
) -> Copied:
    """Copy the file or directory `source` of the guest to `target` on this host; into it, if it is a directory.

    Modes, times and symbolic links are kept, but for modes that give rights to whoever runs a file; the files are
    yours. A directory is merged with one that is there. What the guest sends is not trusted: nothing is written
    elsewhere. Raises NotFound, CopyFailed, AgentError, DeadlineExceeded.
    """
    began = time.monotonic()
    source = _absolute(source)
    place = choose_place(target, name=basename(source.rstrip("/")) or "root")
    progress = Progress(on_progress)
    skipped: list[str] = []

    async def work(connection: Port, far: FarEnd) -> None:
        await far.start(SEND, TRANSFER_PORT, "", source)
        skipped.extend(await _collect(connection, far, place, progress))

    async with Turn(agent) as turn:
        far = FarEnd(turn, mark or make_mark(), f"cannot copy {source!r} out of the guest")
        through = await _through(connect, far, work)
        if through == "agent":
            skipped += await copyagent.collect(far, source, place, progress)
    return Copied(place, progress.done, time.monotonic() - began, through, tuple(skipped))


async def _through(connect: Connect | None, far: FarEnd, work: Work) -> Through:
    """Do `work` through the port, or say that the agent has to do it."""
    if connect is None:
        return "agent"
    try:
        connection = Port(connect(), far.mark, far.is_running)
    except OSError as error:
        raise AgentError(f"the transfer port can't be reached: {error.strerror}") from error
    try:
        await work(connection, far)
        return "port"
    except DeadlineExceeded:
        raise  # the agent would not hear a goodbye either
    except BaseException as error:
        connection.close()
        if isinstance(error, CopyFailed) and far.end is not None and far.end.exit_code == NO_PORT:
            return "agent"
        await far.abandon()
        raise
    finally:
        connection.close()


async def _deliver(port: Port, far: FarEnd, departure: Departure, progress: Progress) -> None:
    await _check_line(await _read_line(port, far), far, "ready")
    far.begin_long_work(departure.size)
    async with beside(_send(port, departure, progress)):
        words = await _read_line(port, far)
    await _check_line(words, far, "end", "0")
    await far.wait()


async def _send(port: Port, departure: Departure, progress: Progress) -> None:
    for piece in departure.pieces():
        if isinstance(piece, Part):
            await _send_part(port, piece, progress)
        elif piece:
            await port.send(piece)
            progress.add(len(piece))


async def _send_part(port: Port, part: Part, progress: Progress) -> None:
    missing = part.size - await port.send_file(open_member(part.path), part.size, on_sent=progress.add)
    if missing and not part.padded:
        raise CopyFailed(f"{part.path!r} became shorter while it was copied")
    while missing > 0:
        zeros = bytes(min(missing, 1 << 20))
        await port.send(zeros)
        missing -= len(zeros)


async def _collect(port: Port, far: FarEnd, place: str, progress: Progress) -> list[str]:
    """What the guest sends, into its place; what was left out of it."""
    words = await _read_line(port, far)
    if words[:1] == ["end"]:
        await far.wait()
        raise far.failure()
    arrival, progress.total = begin_arrival(words, place)
    far.begin_long_work(progress.total)
    with arrival:

        def put(data: memoryview) -> None:
            arrival.put(data)
            progress.add(len(data))

        try:
            is_whole = await port.receive(put)
        except CopyFailed as error:
            raise far.failure() if far.end is not None else error from None
        await far.wait()
        if not is_whole and not far.is_harmless:
            raise far.failure()
        arrival.finish()
        return arrival.skipped


async def _read_line(port: Port, far: FarEnd) -> list[str]:
    try:
        return await port.read_line()
    except CopyFailed:
        raise far.failure() from None


async def _check_line(words: list[str], far: FarEnd, *wanted: str) -> None:
    """Raises CopyFailed where the guest's side says anything but what is `wanted`."""
    if words == [*wanted]:
        return
    if words[:1] != ["end"]:
        raise AgentError(f"the guest's side of the copy talks nonsense: {' '.join(words)[:100]!r}")
    await far.wait()
    raise far.failure()


def _absolute(path: str) -> str:
    """A path of the guest, from its root as other tools have it. Raises CopyFailed for what can't be one."""
    if not path or "\0" in path:
        raise CopyFailed(f"{path!r} can't be a path in the guest")
    return path if path.startswith("/") else f"/{path}"
