"""A plain command in the guest, as quickly as a command line can have it run: without asyncio, pydantic, the plan.

Only where there is nothing to it: the machine runs, nothing is to be undone in the guest first, and a program waits in
it for commands, or its agent is there and answers. Whatever else there is, is found out before anything is started in
the guest, and left to `kvmctl.runtime.inside`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError
from kvmctl.guest.poll import CommandSignals
from kvmctl.guest.words import check_command
from kvmctl.plan.paths import Roots
from kvmctl.runtime import deferred, records, store
from kvmctl.runtime.events import Event, State, derive
from kvmctl.runtime.journal import read_events


def exec_quickly(
    name: str,
    argv: Sequence[str],
    *,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
    signals: CommandSignals,
    roots: Roots | None = None,
) -> int | None:
    """Run a command in the guest of the running machine `name` until it ends, and return its exit code.

    None where there is more to it, and nothing was started. CommandInterrupted ends it as `signals` have it. Raises
    AgentError, DeadlineExceeded, NotRunning.
    """
    puts = (on_stdout, on_stderr)
    with ExitStack() as stack:
        try:
            check_command(argv)
            paths = (roots or store.find_roots()).machine(name)
            process = store.find_process(paths)
            if process is None:
                return None
            stack.enter_context(process)
            events = read_events(paths)
            history = derive(events)
            if history.state is not State.RUNNING or records.has_loose(paths):
                return None
        except (KvmctlError, OSError):
            return None  # to be told by who knows more of it
        code: int | None = None
        try:
            if history.resident_open:
                resident = import_module("kvmctl.runtime.quickresident")
                code = resident.run(paths, argv, puts=puts, signals=signals, known=len(events))
            if code is None and history.agent_open:
                code = import_module("kvmctl.runtime.quickagent").run(paths, argv, puts=puts, signals=signals)
        except (AgentError, DeadlineExceeded) as error:
            deferred.raise_explained(error, paths, process, resets=_count_resets(events))
    return code


def _count_resets(events: Sequence[Event]) -> int:
    return sum(event.name == "RESET" for event in events)
