"""Streaming a guest command's output and input through the agent's protocol, which knows no streams.

``guest-exec`` takes input in one piece, gives output only when the command has ended, and cuts it at 16 MiB. So the
command writes to two files in the guest, which the agent reads while it runs, and reads from a FIFO which the agent
writes to:

1. the shell that becomes the command makes the files, for its user only (the agent would make them for everybody),
2. the agent opens them, as soon as the shell has done so and says it by another file,
3. and has them removed: they have no name any more, and what is left of them goes when both sides have closed them.

Nothing stays behind whatever becomes of either side, but for a client that is killed between the first and the last;
the next one removes its files. The command's exit code and signal are the agent's to report.

Coroutines that await nothing but a `Talk`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from kvmctl.errors import AgentError
from kvmctl.guest.command import End, parse_end, run_captured, start_command, status
from kvmctl.guest.files import File, opening, parse_opened, parse_read
from kvmctl.guest.reply import take
from kvmctl.guest.session import Request
from kvmctl.guest.shell import END, KILL, NO_PLACE, PLACES, REMOVE, SHELL, Setting, become
from kvmctl.guest.talk import Talk

GOODBYE: Final = 2.0
"""Seconds for ending what nobody waits for any more."""
_LIKELY: Final = 16
"""Looks at the likeliest place before the others are looked at, too."""
_READY: Final = ".ready"
"""The file that is there when the command's shell has the others open."""
_QUICK: Final = 8
"""Looks within which the guest is not to be kept from a command by what comes after it."""


class Stream:
    """One of a command's output files, and where its bytes go."""

    def __init__(self, file: File, put: Callable[[bytes], None]) -> None:
        self.file = file
        self._put = put

    def take(self, reply: Any) -> tuple[int, bool]:
        """Pass on what was read, at most a chunk; returns how much, and whether that is all there is by now."""
        data, at_end = parse_read(_checked(reply))
        if data:
            self._put(data)
        return len(data), at_end

    async def drain(self, talk: Talk) -> None:
        """Pass on what is there, and no more: a process that the command left behind may go on writing for ever."""
        left = await self.file.left(talk)
        while left > 0:
            count, at_end = self.take(await talk.execute(*self.file.reading()))
            left = 0 if at_end else left - count


class Streamed:
    """One command whose output goes through a spool, from its beginning to its end."""

    def __init__(
        self, talk: Talk, puts: Sequence[Callable[[bytes], None]], *, mark: str, is_last: bool = False
    ) -> None:
        """`puts` take its output and what it complains of; `mark` is from `make_mark`.

        With `is_last` nothing is to come after it, and for a command that ends within a few looks nobody waits until
        its files are removed.
        """
        self._is_last = is_last
        self._talk = talk
        self._puts = puts
        self._mark = mark
        self._stem = ""
        self._pid: int | None = None
        self._end: End | None = None
        self._suffixes: tuple[str, ...] = ()
        self._streams: list[Stream] = []
        self._opened: dict[str, File] = {}
        self._removal: int | None = None
        self._is_removed = False
        self._looks = 0

    # -- its beginning

    async def begin(
        self, argv: Sequence[str], setting: Setting, *, stdin: bytes = b"", has_stdin: bool = False
    ) -> bool:
        """Start it; False where the guest can't stream, and nothing was started. To be carried out to its end: what it
        has started is known only then. Raises AgentError and DeadlineExceeded."""
        if not await self._can_open():
            return False
        words = become(argv, setting, mark=self._mark, has_stdin=has_stdin)
        try:
            self._pid = await start_command(self._talk, words, stdin=stdin)
        except AgentError as error:
            if error.error_class == "GenericError":  # it would run commands, but there is no shell
                return False
            raise
        self._suffixes = (_READY, ".stderr", ".stdout", *([".stdin"] if has_stdin else []))
        return await self._open()

    async def _can_open(self) -> bool:
        """Whether the agent may open files, which is not to be found out when the command runs."""
        (reply,) = await self._talk.execute_all([opening(f"{PLACES[0]}/{self._mark}.stdout")])
        return _is_missing(reply)

    async def _open(self) -> bool:
        looks = 0
        while True:
            looks += 1
            if await self._open_in(PLACES if looks % _LIKELY == 0 else PLACES[:1]):
                return True
            if self._end is not None:  # what it has made is there by now
                return await self._open_in(PLACES) or await self._explain_none(self._end)
            await self._talk.rest()

    async def _open_in(self, places: Sequence[str]) -> bool:
        """Open what is there of the files; whether that is all of them. What is made last is looked for first."""
        stems = [f"{place}/{self._mark}" for place in places]
        names = [name for stem in stems for suffix in self._suffixes if (name := stem + suffix) not in self._opened]
        asks = self._asks()
        replies = await self._talk.execute_all(
            [*asks, *(opening(name, "r+" if name.endswith(".stdin") else "r") for name in names)]
        )
        if asks:
            self._end = parse_end(replies[0])
        for name, reply in zip(names, replies[len(asks) :], strict=True):
            if not _is_missing(reply):
                self._opened[name] = parse_opened(_checked(reply))
        self._stem = next(
            (stem for stem in stems if all(stem + suffix in self._opened for suffix in self._suffixes)), ""
        )
        files = [self._opened[self._stem + suffix] for suffix in (".stdout", ".stderr")] if self._stem else []
        self._streams = [Stream(file, put) for file, put in zip(files, self._puts, strict=False)]
        return bool(self._streams)

    async def _explain_none(self, end: End) -> bool:
        if end.exit_code == NO_PLACE:
            self._pid = None
            await self._close_all()
            return False
        raise AgentError("what the command wrote can't be read: its files in the guest were removed when it began")

    def _asks(self) -> list[Request]:
        """The question whether it has ended, which is answered once."""
        return [] if self._end is not None or self._pid is None else [status(self._pid)]

    # -- while it runs

    @property
    def stdin(self) -> File | None:
        """The FIFO it reads from, open for reading too, so that opening it had to wait for nobody."""
        return self._opened.get(self.stdin_path)

    @property
    def stdin_path(self) -> str:
        """Where that was, until the command had it open."""
        return f"{self._stem}.stdin"

    async def look(self) -> tuple[End | None, bool]:
        """Pass on what it has written; its end, when that is all, and whether anything has come meanwhile.

        Raises AgentError and DeadlineExceeded.
        """
        asks, reads = self._asks(), [stream.file.reading() for stream in self._streams]
        replies = await self._talk.execute_all([*asks, *reads, *self._removing()])
        self._looks += 1
        has_come = False
        if asks:
            self._end = parse_end(replies.pop(0))
            has_come = self._end is not None
        taken = [stream.take(reply) for stream, reply in zip(self._streams, replies, strict=False)]
        self._note_removal(replies[len(reads) :])
        if self._end is not None:
            for stream, (_, at_end) in zip(self._streams, taken, strict=True):
                if not at_end:
                    await stream.drain(self._talk)
            self._streams = []
        is_over = self._is_removed or (self._is_last and self._removal is None)
        return self._end if is_over else None, has_come or any(count for count, _ in taken)

    def _removing(self) -> list[Request]:
        """What is to be asked so that the files lose their names: not by the command's own shell, which can't know
        when they are open."""
        if self._is_removed or (self._is_last and self._looks < _QUICK):
            return []
        if self._removal is not None:
            return [status(self._removal)]
        return [self._remove()]

    def _remove(self) -> Request:
        names = [f"{self._stem}{suffix}" for suffix in (_READY, ".stdout", ".stderr")]
        return "guest-exec", {"path": "rm", "arg": ["-f", *names]}

    def _note_removal(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, AgentError):
                self._is_removed = True  # there is no rm, and so nothing to be done
            elif self._removal is None:
                self._removal = take(reply, "pid", int)
            else:
                self._is_removed = parse_end(reply) is not None

    async def signal(self, number: int) -> None:
        """Send it signal `number`, and what it has started too. Raises AgentError and DeadlineExceeded."""
        if self._pid is not None and self._end is None:
            await run_captured(self._talk, [SHELL, "-c", KILL, "kvmctl", str(self._pid), str(number)])

    # -- its end

    async def close(self) -> None:
        """Let the agent forget its streams. Raises AgentError and DeadlineExceeded."""
        closing = [file.closing() for name, file in self._opened.items() if name != self.stdin_path]
        self._opened.clear()
        if self._is_last:
            await self._talk.leave(closing if self._is_removed else [self._remove(), *closing])
        elif closing:
            for reply in await self._talk.execute_all(closing):
                _checked(reply)

    async def abandon(self) -> None:
        """End it, and leave nothing of it. Raises AgentError and DeadlineExceeded."""
        self._talk.give_back()  # an answer may be on its way: the goodbye needs a channel that is in step
        if self._pid is not None and self._end is None:
            await run_captured(self._talk, [SHELL, "-c", END, "kvmctl", str(self._pid)])
        if self._pid is not None and not self._is_removed:
            await run_captured(self._talk, [SHELL, "-c", REMOVE, "kvmctl", self._mark])
        await self._close_all()

    async def _close_all(self) -> None:
        closing = [file.closing() for file in self._opened.values()]
        self._opened.clear()
        if closing:
            await self._talk.execute_all(closing)  # the input's may have been closed before


def _is_missing(reply: object) -> bool:
    """Whether a file could not be opened, and not because that is forbidden."""
    return isinstance(reply, AgentError) and reply.error_class == "GenericError"


def _checked(reply: Any) -> Any:
    if isinstance(reply, AgentError):
        raise reply
    return reply
