"""What runs inside a machine in the hand: commands, files, and what its guest agent does for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from kvmctl.errors import AgentError, DeadlineExceeded, KvmctlError, NotRunning
from kvmctl.guest import fsfreeze
from kvmctl.guest.agent import Agent
from kvmctl.guest.progress import OnProgress
from kvmctl.guest.run import Control, ExecResult, OnOutput, run
from kvmctl.runtime import deferred, leftovers, observe, records, transfer
from kvmctl.runtime.agentline import connect_agent
from kvmctl.runtime.events import State, derive
from kvmctl.runtime.handle import ASK_SECONDS
from kvmctl.runtime.judged import Judged
from kvmctl.runtime.sockets import connect_unix
from kvmctl.runtime.transfer import OnWait

if TYPE_CHECKING:
    from kvmctl.guest.copy import Copied
    from kvmctl.guest.info import GuestInfo
    from kvmctl.guest.port import Connect
    from kvmctl.guest.upkeep import Trimmed

_HALTED = frozenset({State.PAUSED, State.SUSPENDED, State.PANICKED, State.IO_ERROR, State.SHUTDOWN})
_RESUMABLE = frozenset({State.PAUSED, State.IO_ERROR})


class GuestRestarted(AgentError):
    """The guest was restarted, and what was asked of it is no more."""


class Inner(Judged):
    """A machine in the hand, and the guest in it. See `Vm`."""

    def agent(self) -> Agent:
        """The guest's agent. Raises AgentError where the machine has no channel for one."""
        if self.plan.guest.agent is None:
            raise AgentError(
                f"machine {self.name!r} has no channel to a guest agent", hint="Give it one in the spec: [agent]."
            )
        return Agent(partial(connect_agent, self.paths))

    async def wait_for_agent_channel(self) -> None:
        """Wait until the guest has opened the agent's channel, as far as it can be told: a serial port is always open.

        Raises NotRunning where the machine ends before it.
        """
        if self.plan.guest.agent == "virtio":
            with self.judged():
                await observe.wait_for_agent_channel(self.paths, self._process)

    async def wait_for_agent(self) -> None:
        """Wait until the guest's agent answers.

        Raises NotRunning where the machine ends before it, AgentError where it has no channel for one.
        """
        await self.wait_for_agent_channel()
        agent = self.agent()
        agent.patience = ASK_SECONDS
        with self.judged():
            async with self._told_of_its_end():
                await agent.wait()  # a serial port tells nobody that it was opened: the first answer does

    def check_halted(self) -> None:
        """Raises AgentError where the guest does not run, so that nobody waits for what can't come."""
        state = derive(self._journal.events()).state
        if state in _HALTED:
            hint = f"Let it go on: kvmctl resume {self.name}" if state in _RESUMABLE else ""
            raise AgentError(f"nothing can be asked of the guest of {self.name!r}: it is {state}", hint=hint)

    @asynccontextmanager
    async def _told_of_its_end(self) -> AsyncIterator[None]:
        """An agent whose channel closes because the machine ends is a machine that has ended."""
        try:
            yield
        except AgentError as error:
            if isinstance(error.__cause__, EOFError | OSError) and await self._monitors.is_ending():
                raise NotRunning(f"machine {self.name!r} has ended", detail=error.summary) from error
            raise

    @asynccontextmanager
    async def _guest(self, *, is_thawing: bool = False) -> AsyncIterator[Agent]:
        """The agent, to be asked something, with nothing left in the guest of clients that were killed.

        Raises AgentError, DeadlineExceeded, and Busy where its file systems are frozen and it is not to thaw them.
        """
        with self.judged():
            self.check_halted()
        agent = self.agent()
        async with self._explained(resets=self._count_resets()):
            await leftovers.settle(self.paths, agent)
            if not is_thawing:
                leftovers.check_not_frozen(self.paths)
            yield agent

    @asynccontextmanager
    async def _explained(self, *, resets: int) -> AsyncIterator[None]:
        """What goes wrong with the agent says what became of the machine, which had been reset so often before."""
        try:
            with self.judged():
                async with self._told_of_its_end():
                    yield
        except (AgentError, DeadlineExceeded) as error:
            if self._count_resets() > resets:
                summary = f"the guest of {self.name!r} was restarted in the middle"
                raise GuestRestarted(summary, detail=error.summary) from error
            raise

    async def raise_explained(self, error: KvmctlError, *, resets: int) -> NoReturn:
        """Raise what an `error` of the agent means, the guest having been reset `resets` times before."""
        async with self._explained(resets=resets):
            raise error

    def _count_resets(self) -> int:
        return sum(event.name == "RESET" for event in self._journal.events())

    async def settle(self) -> None:
        """Undo in the guest what killed clients left in it: file systems frozen, commands that nobody waits for.

        Every method here that asks the guest does so first. Raises AgentError, DeadlineExceeded.
        """
        agent = self.agent()
        agent.patience = ASK_SECONDS
        await leftovers.settle(self.paths, agent)

    # -- commands ------------------------------------------------------------------------------------------------

    async def exec(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str | None = None,
        stdin: bytes | AsyncIterable[bytes] = b"",
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        control: Control | None = None,
    ) -> ExecResult:
        """Run a command in the guest, through its agent, and wait for its end; see `kvmctl.guest.run.run`.

        Whoever stops waiting ends the command too, and so does the next who asks the guest anything where it was
        streamed and its client was killed. Raises AgentError, DeadlineExceeded, NotRunning, Busy.
        """
        async with self._guest() as agent:
            work = partial(run, agent, argv, env=env, user=user, cwd=cwd, stdin=stdin, control=control)
            if not (on_stdout or on_stderr or control) and isinstance(stdin, bytes):
                return await work()
            with records.marked(self.paths) as mark:
                return await work(on_stdout=on_stdout, on_stderr=on_stderr, mark=mark)

    # -- files ---------------------------------------------------------------------------------------------------

    async def copy_in(
        self, source: str, target: str, *, on_progress: OnProgress | None = None, on_wait: OnWait | None = None
    ) -> Copied:
        """Copy the file or directory `source` of this host to `target` in the guest; see `kvmctl.guest.copy.copy_in`.

        Copies take turns, and `on_wait` is told of who is at it. Raises NotFound, CopyFailed, AgentError,
        DeadlineExceeded, NotRunning, Busy.
        """
        async with self._copying(on_wait) as (agent, mark):
            copying = deferred.copy_in(agent, source, target, connect=self._port(), mark=mark, on_progress=on_progress)
            return await copying

    async def copy_out(
        self, source: str, target: str, *, on_progress: OnProgress | None = None, on_wait: OnWait | None = None
    ) -> Copied:
        """Copy the file or directory `source` of the guest to `target` here; see `kvmctl.guest.copy.copy_out`.

        Copies take turns, and `on_wait` is told of who is at it. Raises NotFound, CopyFailed, AgentError,
        DeadlineExceeded, NotRunning, Busy.
        """
        async with self._copying(on_wait) as (agent, mark):
            copying = deferred.copy_out(agent, source, target, connect=self._port(), mark=mark, on_progress=on_progress)
            return await copying

    @asynccontextmanager
    async def _copying(self, on_wait: OnWait | None) -> AsyncIterator[tuple[Agent, str]]:
        """The agent, and the mark of a copy whose turn it is; an agent that has never spoken leaves scp to be named."""
        try:
            async with self._guest() as agent, transfer.turn(self.paths, self._process, on_wait=on_wait):
                with records.marked(self.paths) as mark:
                    yield agent, mark
        except (AgentError, DeadlineExceeded) as error:
            if self.plan.networks and self._never_had_an_agent():
                name, file = self.name, f"{self.name}.ssh"
                scp = f"kvmctl ssh-config {name} >{file} && scp -r -F {file} SRC kvmctl-{name}:DST"
                error.hint = f"Without an agent it goes over ssh: {scp}"
            raise

    def _never_had_an_agent(self) -> bool:
        """Whether no agent has opened its channel in this run, as far as that can be told: a serial port does not."""
        events = self._journal.events()
        is_port = any(event.name == "VSERPORT_CHANGE" and event.data.get("id") == "agent" for event in events)
        return self.plan.guest.agent != "serial" and not is_port

    def _port(self) -> Connect | None:
        return partial(connect_unix, self.paths.transfer) if self.plan.guest.transfer else None

    # -- its file systems, clock and users -----------------------------------------------------------------------

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[int]:
        """The guest's file systems are frozen while the context lasts, and what is on its disks is whole.

        Gives how many they are. They are thawed at its end, however it comes; where this process is killed, by the
        next command that asks the guest anything. Raises AgentError, DeadlineExceeded, NotRunning, Busy.
        """
        async with self._guest() as agent:
            with records.record(self.paths, records.FROZEN) as record:
                try:
                    yield await fsfreeze.freeze(agent)
                finally:
                    await _to_its_end(fsfreeze.thaw(self.agent()))
                    record.undone()

    async def thaw(self) -> int:
        """Thaw the guest's file systems, whoever froze them and is gone; how many were frozen.

        Raises Busy where who froze them is there, AgentError, DeadlineExceeded, NotRunning.
        """
        leftovers.check_not_frozen(self.paths)
        async with self._guest(is_thawing=True) as agent:
            return await fsfreeze.thaw(agent)

    async def trim(self, *, minimum: int = 0) -> list[Trimmed]:
        """Let the host have back what the guest's file systems don't use, in pieces of `minimum` bytes and more.

        Raises AgentError, DeadlineExceeded, NotRunning, Busy.
        """
        async with self._guest() as agent:
            return await deferred.trim(agent, minimum=minimum)

    async def set_password(self, user: str, password: str, *, crypted: bool = False) -> None:
        """Set the password of a user of the guest; a `crypted` one is as in /etc/shadow.

        Raises AgentError, DeadlineExceeded, NotRunning, Busy.
        """
        async with self._guest() as agent:
            await deferred.set_password(agent, user, password, crypted=crypted)

    async def set_clock(self) -> float:
        """Set the guest's clock to this host's; by how many seconds it was ahead.

        Raises AgentError, DeadlineExceeded, NotRunning, Busy.
        """
        async with self._guest() as agent:
            return await deferred.set_clock(agent)

    async def guest_info(self) -> GuestInfo:
        """What the guest says of itself. Raises AgentError, DeadlineExceeded, NotRunning, Busy."""
        async with self._guest() as agent:
            return await deferred.read_info(agent)


async def _to_its_end(work: Coroutine[Any, Any, object]) -> None:
    """Do `work`, and be cancelled after it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(KvmctlError):
            await task
        raise
