"""The stop ladder: from asking the guest to pulling the plug, each step with its deadline."""

from __future__ import annotations

import time
from contextlib import suppress

from kvmctl.errors import DeadlineExceeded, KvmctlError, MonitorBusy, NotRunning
from kvmctl.runtime import ops
from kvmctl.runtime.end import Rung, StopResult
from kvmctl.runtime.events import ExitReason, History, State, derive
from kvmctl.runtime.handle import ASK_SECONDS
from kvmctl.runtime.journal import read_events
from kvmctl.runtime.vm import Vm

GRACE = 30.0
"""Seconds the guest has to shut down, unless the caller says otherwise."""
_ASKABLE = frozenset({State.RUNNING, State.PAUSED, State.SUSPENDED})


async def stop(vm: Vm, *, grace: float = GRACE) -> StopResult:
    """Stop the machine: guest agent or power button, the button again, quit, SIGKILL.

    The guest has `grace` seconds for the first ones. Raises DeadlineExceeded where not even SIGKILL helps.
    """
    began = time.monotonic()
    tried: list[tuple[Rung, str]] = []
    rung = await _ask_guest(vm, grace, tried) or await _end_qemu(vm, tried)
    return StopResult(vm.name, rung, time.monotonic() - began, await vm.wait(), tuple(tried))


async def _ask_guest(vm: Vm, grace: float, tried: list[tuple[Rung, str]]) -> Rung | None:
    """Climb the rungs on which the guest has a say; the one that worked, or None. `tried` gets those that did not."""
    told = derive(read_events(vm.paths))
    rungs = _guest_rungs(vm, told)
    deadline = time.monotonic() + grace
    if rungs and told.agent_open and told.state is State.RUNNING:
        with suppress(KvmctlError):
            await vm.settle()  # one whose file systems were left frozen never gets to its end
    for index, rung in enumerate(rungs):
        # What a rung leaves of its share is for the next ones; what it takes more, they do without.
        patience = max(0.0, deadline - time.monotonic()) / (len(rungs) - index)
        asked = time.monotonic()
        try:
            await _ask(vm, rung, patience=patience, state=told.state if index == 0 else State.RUNNING)
        except NotRunning:
            return rung
        except KvmctlError as error:
            tried.append((rung, error.summary))
            if rung is not Rung.AGENT and isinstance(error, DeadlineExceeded | MonitorBusy):
                return None  # the monitor will not serve the other rungs either
            continue
        if await vm.ended_within(patience):
            return rung
        tried.append((rung, f"still running after {time.monotonic() - asked:.1f} s"))
    return None


def _guest_rungs(vm: Vm, told: History) -> list[Rung]:
    if told.state not in _ASKABLE:
        return []
    guest = vm.plan.guest
    has_agent = guest.agent == "serial" or (guest.agent == "virtio" and told.agent_open)
    return [Rung.AGENT] * has_agent + [Rung.ACPI, Rung.ACPI_AGAIN] * guest.acpi


async def _ask(vm: Vm, rung: Rung, *, patience: float, state: State) -> None:
    if state is State.PAUSED:
        await vm.resume()  # a guest that does not run can't be asked
    elif state is State.SUSPENDED:
        await vm.wake()
    if rung is Rung.AGENT:
        agent = vm.agent()
        agent.patience = min(patience, ASK_SECONDS)
        await agent.shut_down()
        return
    async with vm.monitor(deadline=ASK_SECONDS) as monitor:
        await ops.press_power_button(monitor)


async def _end_qemu(vm: Vm, tried: list[tuple[Rung, str]]) -> Rung:
    """The rungs on which nobody is asked."""
    began = time.monotonic()
    end = await vm.quit()
    if end.reason is ExitReason.KILLED:
        tried.append((Rung.QUIT, f"still running after {time.monotonic() - began:.1f} s"))
        return Rung.KILL
    return Rung.QUIT
