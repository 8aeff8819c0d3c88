"""Templates in the hand, and their forks: machines that go on where a template was frozen, copy-on-write.

What a fork is was decided when its template was made; here it is given a name, a directory and an identity.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from kvmctl.errors import AgentError, NotRunning
from kvmctl.guest.resident import Resident
from kvmctl.guest.run import Control, ExecResult, OnOutput
from kvmctl.plan.paths import MachinePaths, Roots
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import store
from kvmctl.runtime.events import ends_resident
from kvmctl.runtime.forking import begin_fork, check_free, check_room, held
from kvmctl.runtime.journal import Journal
from kvmctl.runtime.race import first_of
from kvmctl.runtime.raising import Profile, Raised, finish
from kvmctl.runtime.template_record import Record, check, load_record
from kvmctl.runtime.vm import Vm

_NO_RENEWAL: Final = (
    "no way was found to renew the guest: all forks begin with the same random numbers, and with the time of their "
    "template, unless the guest's kernel has a driver for the generation ID device"
)


class Fork(Vm):
    """A fork of a template, for as long as this process lives or until it is disposed of.

    As a context manager it is disposed of at the end.
    """

    def __init__(self, raised: Raised, journal: Journal) -> None:
        beginning = raised.beginning
        super().__init__(
            beginning.plan,
            beginning.paths,
            beginning.child.process,
            journal,
            monitor=raised.monitor,
            child=beginning.child,
            claim=beginning.claim,
        )
        self.profile = raised.profile
        """How long the fork took."""
        self._resident = raised.resident
        self._is_renewed = raised.profile.renewed > 0

    async def wait_for_agent(self) -> None:
        """Wait until the guest's agent answers, which it has done where it renewed the guest."""
        if not self._is_renewed:
            await super().wait_for_agent()

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
        """Run a command in the guest and wait for its end, as `Vm.exec` does.

        By the program that has renewed the guest, where that can do it: it is awake, and waits for nothing else.
        """
        work = partial(
            super().exec, argv, env=env, user=user, cwd=cwd, on_stdout=on_stdout, on_stderr=on_stderr, control=control
        )
        resident = self._find_resident()
        if resident is None or not isinstance(stdin, bytes):
            return await work(stdin=stdin)
        run = partial(resident.run, argv, env=env, user=user, cwd=cwd, stdin=stdin, control=control)
        async with self._guest():
            _, result = await first_of(run(on_stdout=on_stdout, on_stderr=on_stderr), self._wait_resident_lost())
        return result or await work(stdin=stdin)

    def _find_resident(self) -> Resident | None:
        """The program that waits in the guest, if it does, and has nothing else to do."""
        if self._resident is not None and any(map(ends_resident, self._journal.events())):
            self._resident.close()
        return self._resident if self._resident is not None and self._resident.is_free else None

    async def _wait_resident_lost(self) -> None:
        """Wait until there can be no answer any more. Raises AgentError, NotRunning."""
        async for event in self.events():
            if ends_resident(event):
                raise AgentError(f"the guest of {self.name!r} has ended the program that ran the command")
        raise NotRunning(f"machine {self.name!r} has ended")

    async def start(self) -> None:
        """Boot it again when it has ended; see `Vm.start`. Its guest goes by its disks, and not by what was frozen."""
        await super().start()
        self._is_renewed = False
        if self._resident is not None:
            self._resident.close()
            self._resident = None

    async def close(self) -> None:
        """Dispose of it: a fork that this process holds is good for nothing without it."""
        await self.dispose()

    async def dispose(self) -> None:
        """End the fork and leave nothing of it."""
        if self._resident is not None:
            self._resident.close()
        try:
            if self._owner == os.getpid() and self.is_alive:
                await self.kill()  # nothing on its disks is for anybody
        finally:
            await super().dispose()


@dataclass(slots=True)
class Template:
    """A frozen machine to be forked."""

    paths: TemplatePaths
    roots: Roots
    record: Record
    _stamp: list[int]
    is_new: bool = False
    """It was made just now, and was not there already."""

    @property
    def name(self) -> str:
        """The template's name."""
        return self.paths.name

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is worth knowing of its forks."""
        if self.record.renew is not None:
            return ()
        return (_NO_RENEWAL,)

    async def fork(self, *, name: str | None = None, hostname: str = "") -> Fork:
        """A machine that runs where the template was frozen, and ends with this process or when it is disposed of.

        Its guest has fresh random numbers and the time of now, and is called `hostname` where one is given. Raises
        NotFound, TemplateMisfit, TemplateDamaged, AlreadyRunning, and what starting a machine raises.
        """
        called = name or f"{self.name[:57]}-{secrets.token_hex(3)}"
        paths = self.roots.machine(called, ephemeral=True)
        raised = await self._raise(paths, is_captive=True, hostname=hostname)
        with ExitStack() as stack:
            try:
                journal = stack.enter_context(Journal(paths))
            except BaseException as error:
                raised.fail(error)
                raise
            stack.pop_all()
        raised.beginning.succeed()
        return Fork(raised, journal)

    async def fork_detached(self, names: Sequence[str], *, hostnames: bool = False) -> list[Profile]:
        """Machines of these names that go on when this process ends: all of them, or none.

        With `hostnames` each guest is called as its machine. Raises what `fork` raises, and HostError and StateError
        where there is not enough memory or space for all of them, before the first is started.
        """
        store.sweep(self.roots)
        check_room(self.record.plan, self.roots, count=len(names))
        for name in names:
            check_free(name, self.roots)
        raised: list[Raised] = []
        limit = asyncio.Semaphore(os.cpu_count() or 1)

        async def raise_one(name: str) -> None:
            async with limit:
                paths = self.roots.machine(name, ephemeral=True)
                hostname = name if hostnames else ""
                raised.append(await self._raise(paths, is_captive=False, hostname=hostname))

        try:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(raise_one(name))
        except BaseException as error:  # noqa: BLE001  # raised again, out of its group
            cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            for item in raised:
                item.fail(cause)
            raise cause from None
        for item in raised:
            item.let_go()
        return [item.profile for item in raised]

    def check(self) -> None:
        """See that the template is whole and fits. Raises NotFound, TemplateMisfit, TemplateDamaged."""
        self._reload()
        check(self.paths, self.record)

    def _reload(self) -> None:
        """Read the record again where it is another one: the template was made anew."""
        found = _record_stamp(self.paths)
        if found != self._stamp:
            self.record, self._stamp = load_record(self.paths), found

    async def _raise(self, paths: MachinePaths, *, is_captive: bool, hostname: str) -> Raised:
        profile = Profile()
        with held(self.paths):
            self.check()
            beginning = begin_fork(self.record, paths, is_captive=is_captive)
        profile.spawned = profile.now()
        return await finish(beginning, profile, record=self.record, hostname=hostname)


def load_template(name: str, *, roots: Roots | None = None) -> Template:
    """The template `name`, found to be whole and to fit. Raises NotFound, TemplateMisfit, TemplateDamaged."""
    roots = roots or store.find_roots()
    paths = roots.template(name)
    stamp = _record_stamp(paths)
    found = Template(paths, roots, load_record(paths), stamp)
    found.check()
    return found


def _record_stamp(paths: TemplatePaths) -> list[int]:
    with suppress(OSError):
        status = os.stat(paths.record)
        return [status.st_ino, status.st_mtime_ns]
    return []
