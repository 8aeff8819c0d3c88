"""What a guest can be waited for to have come to: an agent, an ssh server, cloud-init, a unit, a port, a command.

Each wait notes what it sees, for whoever gives up. A guest that reboots meanwhile is waited for again.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable, Sequence
from typing import Final

from kvmctl.errors import AgentError, DeadlineExceeded, HostKeyChanged, Unreachable, WaitFailed
from kvmctl.guest import watches
from kvmctl.guest.run import ExecResult
from kvmctl.runtime.inner import GuestRestarted
from kvmctl.runtime.inside import GuestReset, run_inside, wait_for_agent, wait_for_way
from kvmctl.runtime.race import first_of
from kvmctl.runtime.server import Note, ignore, wait_for_login
from kvmctl.runtime.vm import Vm

_FINISHED: Final = r"Cloud-init v\. \S+ finished at"
"""What cloud-init says on the console at its end (its ``final_message``)."""
_GRACE: Final = 10.0
"""Seconds for a way into the guest to be found, by which cloud-init itself tells how it went, once the console has said
that it is over."""
_LINES_MAX: Final = 50
_OF_A_COMMAND: Final = ("'guest-exec-status'", "'guest-file-")
"""What an agent that was started anew refuses: it knows neither the command nor the files that it had open for it."""

_LINE_MAX: Final = 500
"""How many lines of a watch are kept, and how much of each: a guest may say anything."""


async def wait_agent(vm: Vm, *, note: Note) -> str:
    """Until the guest's agent answers."""
    await wait_for_agent(vm, note=note)
    return "the guest agent answers"


async def wait_ssh(vm: Vm, *, note: Note) -> str:
    """Until one can log in over ssh; without a key made for the machine, until an ssh server speaks."""
    login, banner = await wait_for_login(vm, note=note)
    return f"{banner} at {login}"


async def wait_port(vm: Vm, number: str, *, note: Note) -> str:
    """Until something in the guest listens on the TCP port."""

    def describe(line: str) -> None:
        note(watches.describe_ports(line))

    await _watch(vm, watches.watch_port(int(number)), missing="no /proc/net/tcp", note=describe)
    return f"port {number} is listened on"


async def wait_exec(vm: Vm, line: str, *, note: Note) -> str:
    """Until a command of the guest's shell succeeds; what it then says last."""
    seen = await _watch(vm, watches.watch_command(line), missing="no shell", note=note)
    return (seen[-1] if seen else "") or f"{line!r} succeeded"


async def wait_unit(vm: Vm, name: str, *, note: Note) -> str:
    """Until a systemd unit is active, or has run. Raises WaitFailed, with its last words, where it fails."""
    seen = await _watch(vm, watches.watch_unit(name), missing="no systemctl", note=note)
    return f"{name} is {seen[-1] if seen else 'active'}"


async def wait_cloud_init(vm: Vm, *, note: Note) -> str:
    """Until cloud-init has finished. Raises WaitFailed where it says that it failed.

    It is asked within the guest where commands can be run there; where not, its last words on the console have to do.
    """
    if not vm.has_console_log:
        return await _ask_cloud_init(vm, note=note)
    place, said = await first_of(_ask_cloud_init(vm, note=note), vm.wait_for_console(_FINISHED))
    if place == 0:
        return said
    try:
        async with asyncio.timeout(_GRACE):
            await wait_for_way(vm, note=ignore)
    except TimeoutError:
        return said
    return await _ask_cloud_init(vm, note=note)  # however long a busy guest takes: it may be that it failed


async def _ask_cloud_init(vm: Vm, *, note: Note) -> str:
    seen = await _watch(vm, watches.watch_cloud_init(), missing="no cloud-init", note=note)
    return next((line for line in seen if line.startswith("status:")), "cloud-init has finished")


async def _watch(vm: Vm, argv: Sequence[str], *, missing: str, note: Note) -> list[str]:
    """The last lines of a command that waits in the guest, each noted as it comes; begun anew after a reboot.

    Raises WaitFailed where the command says that it can't come, or that the guest has not what it takes.
    """
    while True:
        way = await wait_for_way(vm, note=note)
        lines = _Lines(note)
        try:
            result = await run_inside(vm, argv, way=way, on_stdout=lines.feed)
        except (AgentError, DeadlineExceeded, Unreachable) as error:
            if not _is_passing(error):
                raise
            note(error.summary)
            continue
        return _outcome(vm, result, lines.seen, missing=missing)


def _is_passing(error: AgentError | DeadlineExceeded | Unreachable) -> bool:
    """Whether it may be another time: the guest went down, or its agent was started anew and knows no command of ours.

    A guest that refuses what it is asked for, or lets us not in, will do so again.
    """
    match error:
        case HostKeyChanged():
            return False
        case GuestRestarted():
            return True
        case Unreachable():
            return isinstance(error, GuestReset) or "broke" in error.summary or "fell silent" in error.summary
        case AgentError():
            return isinstance(error.__cause__, EOFError | OSError) or any(own in error.summary for own in _OF_A_COMMAND)
        case _:
            return True


def _outcome(vm: Vm, result: ExecResult, seen: list[str], *, missing: str) -> list[str]:
    detail = "\n".join(seen) or result.stderr.decode(errors="replace")[-_LINE_MAX:]
    match result.exit_code:
        case 0:
            return seen
        case watches.FAILED:
            raise WaitFailed(f"what was waited for in {vm.name!r} has failed", detail=detail)
        case watches.MISSING:
            raise WaitFailed(f"the guest of {vm.name!r} has {missing}", detail=detail)
        case code:
            raise WaitFailed(f"waiting within {vm.name!r} ended with exit code {code}", detail=detail)


class _Lines:
    """The last lines of what comes in pieces, each passed on when it is whole."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.seen: list[str] = []
        self._note = note
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest = ""

    def feed(self, data: bytes) -> None:
        *lines, rest = (self._rest + self._decode(data)).split("\n")
        self._rest = rest[:_LINE_MAX]
        for line in lines:
            shown = line.strip()[:_LINE_MAX]
            self._note(shown)
            self.seen = [*self.seen, shown][-_LINES_MAX:]
