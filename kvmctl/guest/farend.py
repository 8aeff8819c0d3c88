"""The guest's end of a copy: a script that its agent runs."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Final

from kvmctl.errors import CopyFailed, KvmctlError
from kvmctl.guest.command import End, find_end, run_captured, start_command
from kvmctl.guest.reply import printable
from kvmctl.guest.shell import END_MARKED, SHELL
from kvmctl.guest.spool import GOODBYE
from kvmctl.guest.turn import Turn

_HARMLESS: Final = re.compile(
    r"changed as we read it|removed before we read it|shrank by|socket ignored", re.IGNORECASE
)
"""What GNU tar says of a directory that lives, and exits with 1."""
_LONG: Final = 4 << 20
"""Bytes that take a tenth of a second and more."""


class FarEnd:
    """One script, from its start to its end. `summary` begins what is said when it fails."""

    def __init__(self, turn: Turn, mark: str, summary: str) -> None:
        self.turn = turn
        self.mark = mark
        self.summary = summary
        self.end: End | None = None
        """How it ended, once that is known."""
        self._pid: int | None = None

    async def start(self, script: str, *words: str) -> None:
        """Start `script`, which is told the mark and `words`. Raises AgentError, DeadlineExceeded."""
        self.end = None
        self._pid = await start_command(self.turn, [SHELL, "-c", script, "kvmctl", self.mark, *words], capture=True)

    def begin_long_work(self, size: int | None) -> None:
        """It will be a while, if `size` is large or not known: others may have the agent's channel meanwhile.

        Not for less: QEMU's agent is not back for up to 0.1 s after it was left.
        """
        if size is None or size > _LONG:
            self.turn.give_back()

    async def is_running(self) -> bool:
        """Whether it runs, by the agent, which others may ask in between."""
        if self.end is None and self._pid is not None:
            self.end = await find_end(self.turn, self._pid, captured=True)
            self.turn.give_back()
        return self.end is None

    async def wait(self) -> End:
        """Wait for its end."""
        while self.end is None:
            assert self._pid is not None  # noqa: S101  # it was started
            self.end = await find_end(self.turn, self._pid, captured=True)
            if self.end is None:
                await self.turn.rest()
        return self.end

    @property
    def words(self) -> list[list[str]]:
        """The words of each line that it said on its standard output in place of a port."""
        text = self.end.stdout.decode(errors="replace") if self.end else ""
        lines = (line.split() for line in text.splitlines())
        return [line[1:] for line in lines if line[:1] == [self.mark]]

    @property
    def is_harmless(self) -> bool:
        """Whether all that it complains of is that files changed meanwhile."""
        return bool(self._complaints) and all(_HARMLESS.search(line) for line in self._complaints)

    @property
    def _complaints(self) -> list[str]:
        text = self.end.stderr.decode(errors="replace") if self.end else ""
        return [line for line in text.splitlines() if line.strip()]

    def failure(self) -> CopyFailed:
        """The error for its end, in the guest's own words."""
        complaints = [printable(line) for line in self._complaints]
        if not complaints:
            signal = self.end.signal if self.end else None
            reason = f"signal {signal} ended it there" if signal else "it ended there, and did not say why"
            return CopyFailed(f"{self.summary}: {reason}")
        detail = "\n".join(complaints[:-1][-20:])
        return CopyFailed(f"{self.summary}: {complaints[-1]}", detail=detail)

    async def abandon(self) -> None:
        """End it, as far as that can be done in a moment."""
        if self._pid is None or self.end is not None:
            return
        with suppress(KvmctlError, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                self.turn.give_back()  # an answer may be on its way: the goodbye needs a channel that is in step
                await run_captured(self.turn, [SHELL, "-c", END_MARKED, "kvmctl", self.mark])
