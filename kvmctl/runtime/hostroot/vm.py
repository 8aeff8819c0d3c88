"""The running machine: commands in it, and what became of it where it ends before they do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from errno import EINVAL, ENODEV
from typing import Final

from kvmctl.errors import AgentError, HostError, NotRunning
from kvmctl.guest.init.session import Failed, Input, Order, Refused, Session, Terminal, exit_code
from kvmctl.guest.run import ExecResult, OnOutput, Sink
from kvmctl.runtime.hostroot.bootfiles import BootFiles
from kvmctl.runtime.hostroot.setting import HostRoot, settings_of
from kvmctl.runtime.hostroot.users import User, caller, environment, find_user
from kvmctl.runtime.vm import Vm

_END_SECONDS: Final = 10.0
"""How long a QEMU whose guest has ended may take to end."""
_EVIDENCE: Final = 3000
_PANIC: Final = "Kernel panic"
_NO_DRIVER: Final = r"kvmctl: cannot find the driver \S*/([\w-]+)"
"""What init says on the console where it can't say it to us."""


class HostRootVm:
    """A machine made of this host that runs, and runs commands one at a time."""

    def __init__(self, vm: Vm, session: Session, *, wanted: HostRoot, boot: BootFiles) -> None:
        self.vm = vm
        """The machine itself."""
        self._session = session
        self._wanted = wanted
        self._boot = boot
        self._turn = asyncio.Lock()

    @property
    def kernel_version(self) -> str:
        """What ``uname -r`` says in it."""
        return self._boot.version

    async def set_up(self) -> None:
        """Wait until the root is made. Raises HostError, AgentError, NotRunning."""
        async with self._told_of_its_end():
            await self._session.set_up(settings_of(self._wanted, self.vm.plan))

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        directory: str | None = None,
        user: str | None = None,
        stdin: Input = b"",
        terminal: Terminal | None = None,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
    ) -> ExecResult:
        """Run a command to its end. Streams are kept apart, byte for byte; on a `terminal` all comes as stdout.

        Its exit code is 126 where it can't be run and 127 where it is not found, 128 and the signal's number where a
        signal ended it. `env` is added to a small environment; `user` is a name or a number, root unless given;
        `directory` is a path in the guest. Raises AgentError, NotFound; NotRunning where the machine ends before it.
        """
        _check(argv)
        out, err = Sink(on_stdout), Sink(on_stderr)
        order = self._order(argv, env=env, directory=directory, user=user, terminal=terminal)
        async with self._turn, self._told_of_its_end():
            try:
                status = await self._session.run(order, stdin=stdin, on_stdout=out.put, on_stderr=err.put)
            except Refused as refused:
                code, signal = self._code_of(refused), None
                err.put(f"kvmctl: cannot {refused}\n".encode())
            else:
                code, signal = exit_code(status)
        return ExecResult(code, signal, out.kept, err.kept, truncated=out.truncated or err.truncated)

    def signal(self, number: int) -> None:
        """Send a signal to the command that runs, if one does, and to its process group."""
        self._session.signal(number)

    def resize(self, rows: int, columns: int) -> None:
        """Give the command's terminal, if it has one, another size."""
        self._session.resize(rows, columns)

    def _order(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None,
        directory: str | None,
        user: str | None,
        terminal: Terminal | None,
    ) -> Order:
        who: User = caller() if user is None else find_user(user, root=self._wanted.root)
        return Order(
            argv=tuple(argv),
            env=environment(who, root=self._wanted.root, added=env or {}),
            directory=self._wanted.start_directory() if directory is None else directory,
            uid=who.uid,
            gid=who.gid,
            groups=who.groups,
            terminal=terminal,
        )

    def _code_of(self, refused: Refused) -> int:
        if refused.exit_code is None:
            raise AgentError(
                f"the guest could not {refused}", hint="Say where to run it: --cwd DIR, a path in the guest."
            ) from refused
        return refused.exit_code

    @asynccontextmanager
    async def _told_of_its_end(self) -> AsyncIterator[None]:
        try:
            yield
        except Failed as failed:
            raise self._explain(failed) from failed
        except EOFError as error:
            raise await self._explain_end() from error

    def _explain(self, failed: Failed) -> HostError | AgentError:
        failure, driver = failed.failure, self.vm.plan.shares[0].driver
        if failure.doing.startswith("mount /root") and failure.errno in {ENODEV, EINVAL}:
            return HostError(
                f"the kernel {self._boot.version} has no {driver}, by which directories are shared with it",
                detail=f"the guest could not {failure}",
                hint="Take another kernel, or give its modules with --modules DIR.",
            )
        return AgentError(f"the guest could not {failure}", detail=self._last_words())

    async def _explain_end(self) -> NotRunning | HostError:
        ended = await self.vm.ended_within(_END_SECONDS)
        words = self._last_words()
        if driver := re.search(_NO_DRIVER, words):
            return HostError(
                f"the kernel {self._boot.version} has no {driver[1]}, neither built in nor among the modules found",
                hint="Give its modules with --modules DIR, or take another kernel.",
            )
        if _PANIC in words:
            what = "the guest's kernel panicked"
        elif ended:
            what = f"the guest ended before its command did: {(await self.vm.wait()).reason}"
        else:
            what = "the guest let go of its command"
        return NotRunning(what, detail=words, hint="" if words else "The guest's console has said nothing.")

    def _last_words(self) -> str:
        return self.vm.console_text(limit=_EVIDENCE).replace("\r\n", "\n").strip()


def _check(argv: Sequence[str]) -> None:
    if isinstance(argv, str):  # which is a sequence of words of one letter
        raise AgentError(f"{argv!r} is one word, and a command is a list of them", hint=f'["sh", "-c", {argv!r}]')
    if not argv or not argv[0]:
        raise AgentError("no command was given")
