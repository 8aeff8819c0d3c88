"""The second half of a plain ``kvmctl fork``, while its QEMU comes up: `kvmctl.runtime.raising` without asyncio.

What is said to the program in the guest is the same code; its coroutines are run as in `kvmctl.guest.poll`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import ExitStack, closing
from typing import Any

from kvmctl.guest import messages
from kvmctl.guest.poll import BlockingWire, CommandSignals, OwnLine, go
from kvmctl.guest.received import TimeIsUp
from kvmctl.plan.paths import RESIDENT
from kvmctl.runtime.begin import START_SECONDS, Beginning
from kvmctl.runtime.exchange import Exchange
from kvmctl.runtime.forking import note_forked, renewal


def raise_quickly(beginning: Beginning, *, is_resident: bool) -> None:
    """Let a fork run whose QEMU was started, with its guest renewed if a program waits in it for that.

    Whatever goes wrong, nothing is left of it. Raises MonitorLost, LaunchFailed, AgentError, DeadlineExceeded.
    """
    with ExitStack() as stack, beginning.undone_on_error():
        resident = stack.enter_context(closing(_Resident(beginning))) if is_resident else None
        qmp = Exchange(beginning.child.monitor, name=beginning.plan.name, seconds=START_SECONDS)
        _load(beginning, qmp)
        if resident is not None:
            resident.send_renewal()  # it is there when the guest wakes up
        qmp.execute("cont")
        if resident is not None:
            resident.wait_renewed()
        note_forked(beginning, is_renewed=is_resident)
        beginning.succeed()
    beginning.child.disown()
    beginning.child.process.close()


def _load(beginning: Beginning, qmp: Exchange) -> None:
    """Let QEMU make the frozen state its own. Raises MonitorLost where it ends instead: it could not load it."""
    qmp.open()
    for step in beginning.plan.before_run:
        qmp.execute(step.execute, step.numbered(beginning.child.numbers))
    beginning.child.widen_backlogs()
    qmp.wait_for("MIGRATION", status="completed")


class _Resident:
    """A connection to the program that waits in a fork's guest.

    Every method raises AgentError, and TimeoutError where the fork takes too long to come up.
    """

    def __init__(self, beginning: Beginning) -> None:
        self._signals = CommandSignals()
        line = OwnLine(beginning.child.ends[RESIDENT].dup())
        self._wire = BlockingWire(line, self._signals).within(START_SECONDS)

    def send_renewal(self) -> None:
        """Tell it to renew the guest, were it before that runs."""
        self._go(messages.send_renewal(self._wire, renewal()))

    def wait_renewed(self) -> None:
        """Wait until the guest is renewed."""
        self._go(messages.wait_renewed(self._wire))

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        with messages.translated():
            try:
                go(work)
            except TimeIsUp:
                raise TimeoutError from None

    def close(self) -> None:
        """Hang up: the program ends when it has nothing to do."""
        self._wire.close()
        self._signals.close()
