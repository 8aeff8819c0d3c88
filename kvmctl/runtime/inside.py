"""Commands in a guest by the way there is: its agent, which needs no network, else ssh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

from kvmctl.errors import DeadlineExceeded, NotRunning, Unreachable
from kvmctl.guest.run import Control, ExecResult, OnOutput
from kvmctl.guest.session import PATIENCE
from kvmctl.guest.shell import Setting
from kvmctl.guest.sshrun import run_ssh
from kvmctl.runtime.events import derive
from kvmctl.runtime.handle import ASK_SECONDS
from kvmctl.runtime.journal import read_events
from kvmctl.runtime.race import first_of
from kvmctl.runtime.reach import find_login, has_likely_login
from kvmctl.runtime.server import Note, ignore, wait_for_banner, wait_for_login
from kvmctl.runtime.vm import Vm

Way: TypeAlias = Literal["agent", "ssh"]


async def run_inside(
    vm: Vm,
    argv: Sequence[str],
    *,
    way: Way | None = None,
    on_way: Callable[[Way], None] | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    cwd: str | None = None,
    stdin: bytes | AsyncIterable[bytes] = b"",
    on_stdout: OnOutput | None = None,
    on_stderr: OnOutput | None = None,
    control: Control | None = None,
) -> ExecResult:
    """Run a command in the guest until it ends, by `way`, else by the one there is; `on_way` is told which.

    The rest is as for `Vm.exec`. Whoever stops waiting ends the command too. Raises AgentError, Unreachable,
    DeadlineExceeded, NotRunning.
    """
    vm.check_halted()
    chosen = way or await choose_way(vm)
    if on_way is not None:
        on_way(chosen)
    if chosen == "agent":
        run = partial(vm.exec, env=env, user=user, cwd=cwd)
        return await run(argv, stdin=stdin, on_stdout=on_stdout, on_stderr=on_stderr, control=control)
    login, reset = await find_login(vm), asyncio.Event()
    run = partial(run_ssh, login, setting=Setting(env or {}, user, cwd), is_lost=reset.is_set)
    command = run(argv, stdin=stdin, on_stdout=on_stdout, on_stderr=on_stderr, control=control)
    try:
        _, result = await first_of(command, _interruption(vm, reset))
    except Unreachable as error:
        if not isinstance(error, GuestReset) and await vm.ended_within(ASK_SECONDS):
            raise NotRunning(f"machine {vm.name!r} has ended", detail=error.summary) from error
        raise
    return result


class GuestReset(Unreachable):
    """The guest was reset, and what ran in it is no more."""


async def _interruption(vm: Vm, reset: asyncio.Event) -> ExecResult:
    """Wait for a reset of the guest, after which packets for what ran in it would be sent in vain for long."""
    await vm.wait_for_event("RESET")
    reset.set()
    raise GuestReset(f"the guest of {vm.name!r} was reset, and with it went what ran in it")


async def choose_way(vm: Vm) -> Way:
    """The agent wherever it has opened its channel, or might; ssh where there is no agent, or its server is quicker.

    Raises DeadlineExceeded where neither shows itself for as long as an agent is given to answer.
    """
    agent = vm.plan.guest.agent
    if agent is None:
        return "ssh"
    if agent == "serial" or derive(read_events(vm.paths)).agent_open or not has_likely_login(vm):
        return "agent"
    login = await find_login(vm)
    try:
        async with asyncio.timeout(PATIENCE) as scope:
            place, _ = await first_of(vm.wait_for_agent_channel(), wait_for_banner(login, note=ignore))
    except TimeoutError:
        if not scope.expired():
            raise
        raise DeadlineExceeded(
            f"neither the guest agent of {vm.name!r} nor an ssh server in it answers within {PATIENCE:g} s",
            hint=f"Wait for it with kvmctl wait {vm.name} --for agent, or look: kvmctl console {vm.name}",
        ) from None
    return "agent" if place == 0 else "ssh"


async def wait_for_way(vm: Vm, *, note: Note) -> Way:
    """Wait until commands can be run in the guest, by its agent or over ssh, whichever comes first.

    Raises Unreachable where there is neither an agent's channel nor a network.
    """
    if vm.plan.guest.agent is None:
        await wait_for_login(vm, note=note)
        return "ssh"
    if not has_likely_login(vm):
        await wait_for_agent(vm, note=note)
        return "agent"
    place, _ = await first_of(wait_for_agent(vm, note=note), wait_for_login(vm, note=ignore))
    return "agent" if place == 0 else "ssh"


async def wait_for_agent(vm: Vm, *, note: Note) -> None:
    """Wait until the guest's agent answers. Raises AgentError where the machine has no channel for one."""
    vm.agent()
    note("the guest has not opened the agent's channel")
    await vm.wait_for_agent_channel()
    note("the agent does not answer")
    await vm.wait_for_agent()
