"""The first half of a start, up to a QEMU that is about to answer: claim, look, make, exec. No asyncio.

Whatever goes wrong in between, all is as it was before: no process, no file, no lock of this start, and what the last
run left. What even SIGKILL leaves is swept by the next command.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from signal import SIGKILL
from socket import MSG_PEEK
from typing import NamedTuple

from kvmctl import files
from kvmctl.errors import DeadlineExceeded, KvmctlError, QmpError
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import deferred, history, made, preflight, specs, steps, store
from kvmctl.runtime.made import Made
from kvmctl.runtime.spawn import Child, spawn
from kvmctl.runtime.store import Claim

START_SECONDS = 60.0
"""How long QEMU may take from its start to its first instruction: it may have to touch a lot of memory first."""
_REAP_SECONDS = 5.0
_LOG_TAIL = 4096


class Beginning(NamedTuple):
    """A machine on its way up: QEMU was started and has yet to be told to run."""

    plan: Plan
    paths: MachinePaths
    claim: Claim
    child: Child
    undo: ExitStack

    def succeed(self) -> None:
        """The machine runs: keep what was made. A captive one stays tethered to this process."""
        if not self.claim.is_captive:
            self.claim.untether()  # first: if this is interrupted, all that was made can still be unmade
        else:
            made.keep(self.paths)
        self.undo.pop_all()
        self.child.close_sockets()

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Any error within fails the start."""
        try:
            yield
        except BaseException as error:
            cause = self.fail(error)
            if cause is error:
                raise
            raise cause from error

    def fail(self, cause: BaseException) -> BaseException:
        """End QEMU, unmake everything, and return the error to raise: QEMU's own words where it died of itself.

        That the time was up is a TimeoutError to whoever counted it, and DeadlineExceeded to everybody else. A machine
        that had been let go already runs on.
        """
        if not self.claim.is_held:
            self._leave()
            return cause
        status = self._end_child(is_dying=isinstance(cause, KvmctlError))
        log = files.read_tail(self.paths.qemu_log, limit=_LOG_TAIL)
        spoiler = deferred.explain_failure(self.plan, self.child.helpers) if self.child.helpers else None
        self.undo.close()
        if isinstance(cause, TimeoutError):
            return DeadlineExceeded(
                f"QEMU of {self.plan.name!r} did not come up within {START_SECONDS:g} s", detail=log.strip()
            )
        if isinstance(cause, QmpError) and not cause.detail:
            cause.detail = log.strip()  # it is nowhere else any more
        if status is None or not isinstance(cause, KvmctlError):
            return cause
        return spoiler or deferred.explain_exit(self.plan.name, source=self.plan.source, status=status, log=log)

    def _leave(self) -> None:
        """Let go of all that we have of a machine that runs."""
        self.undo.pop_all()
        self.child.close_sockets()
        self.child.disown()
        self.child.process.close()

    def _end_child(self, *, is_dying: bool) -> int | None:
        """QEMU's exit status if it ended by itself; None if it had to be killed."""
        child = self.child
        died = child.process.wait(_REAP_SECONDS if is_dying and _hung_up(child) else 0)
        if not died:
            child.process.signal(SIGKILL)
            child.process.wait(_REAP_SECONDS)
        status = child.reap()
        child.process.close()
        child.close_sockets()
        child.end_helpers()
        return status if died else None


def begin(plan: Plan, paths: MachinePaths, *, is_captive: bool, is_defined: bool = False) -> Beginning:
    """Claim the machine and start its QEMU, stopped before its first instruction; one that is defined stays its type.

    Raises AlreadyRunning where somebody was quicker, and every error that looking, making and starting can end in.
    """
    claim = store.claim(paths, is_captive=is_captive)
    with deferred.judged_start(), ExitStack() as undo:
        undo.callback(claim.abandon)
        preflight.check(plan)
        record = Made(paths, lock=claim.lock)
        if is_defined:
            specs.pin(paths, plan.machine_type, record)
        steps.carry_out(plan, record)
        child = spawn(plan, claim)
        beginning = Beginning(plan, paths, claim, child, undo.pop_all())
    with beginning.undone_on_error():
        # Not before: QEMU is busy coming up now, and nobody is told of the machine until it runs.
        files.write_atomic(paths.plan, plan.dumps().encode(), is_volatile=True)
        if not paths.is_ephemeral and os.path.exists(paths.before):
            record.replaced(paths.history)
            history.archive(paths)
    return beginning


def _hung_up(child: Child) -> bool:
    """Whether QEMU has closed its end of the private monitor, which it does only when it ends."""
    try:
        child.monitor.settimeout(0)  # it may have one, which would be waited for whatever the flags say
        return child.monitor.recv(1, MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
