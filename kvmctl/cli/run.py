"""``kvmctl run``: in the foreground, with its console on this terminal, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Annotated, Final, TypeAlias

import typer

import kvmctl
from kvmctl import Exit, ExitReason, KvmctlError, Vm, open_console, stop
from kvmctl.cli import output, session, terminal
from kvmctl.cli.arguments import complete_machine, complete_template
from kvmctl.cli.exec import OUR_FAILURE, TIMED_OUT, stream

_GOOD_ENDS: Final = {ExitReason.GUEST_SHUTDOWN, ExitReason.GUEST_RESET, ExitReason.HOST_QUIT}

_Opening: TypeAlias = Callable[[], AbstractAsyncContextManager[Vm]]
"""Makes the machine that is run, for as long as the context lasts."""


def run(
    machine: Annotated[
        str | None,
        typer.Argument(
            metavar="MACHINE",
            help="The machine's name, or the path of a spec (with a / or ending in .toml).",
            autocompletion=complete_machine,
            show_default=False,
        ),
    ] = None,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="Run this in it, then end it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Its name; else the spec's and a random word.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            "-T",
            metavar="TEMPLATE",
            help="Not a machine that boots, but a fork of this template.",
            autocompletion=complete_template,
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="End it after that.")
    ] = None,
) -> None:
    """Run a machine in the foreground, its console on this terminal.

    It ends with this command, whatever ends that, and what it kept for itself goes with it. Ctrl-] ends it; SIGTERM,
    and SIGINT where the console has no terminal, ask the guest to power down, and a second one does not ask. The exit
    code is 0 if the guest powered off, QEMU's own if the guest chose one, and 1 after a crash.

    With a command, that is run through the guest agent once it answers, and its exit code becomes ours, as with
    kvmctl exec: 124 says that the time was up, 125 that it did not come to it.

    \b
    kvmctl run tiny
    kvmctl run machines/small-linux.toml -- uname -a
    kvmctl run --template web -- curl -s http://localhost
    """
    words = command or []
    if template is not None:
        words = [*([machine] if machine is not None else []), *words]  # what stands first is no machine then
    elif machine is None:
        raise typer.BadParameter("say which: a MACHINE, or --template TEMPLATE")
    what = template or machine or ""
    opening: _Opening = partial(_fork if template is not None else kvmctl.launch, what, name=name)
    if words:
        raise typer.Exit(_run_command(opening, words, timeout=timeout))
    raise typer.Exit(session.run(_run(opening), timeout=timeout, doing=f"run {what}"))


@asynccontextmanager
async def _fork(template: str, *, name: str | None) -> AsyncIterator[Vm]:
    async with await kvmctl.load_template(template).fork(name=name) as vm:
        yield vm


async def _run(opening: _Opening) -> int:
    async with opening() as vm, asyncio.TaskGroup() as group:
        _warn(vm)
        with _asked_to_end(vm, group):
            if await _attend(vm):
                return _exit_code(vm, await vm.wait())
    output.say(f"\n{vm.name}: ended")
    return 0


async def _attend(vm: Vm) -> bool:
    """Stay with the machine until it ends (True) or is left (False)."""
    if not vm.plan.consoles:
        output.say(f"{vm.name} has no console; it runs until its guest powers off")
        await vm.wait()
        return True
    output.say(f"{vm.name} runs; {terminal.LEAVE_KEY_NAME} ends it")
    with open_console(vm.name) as console:
        return await terminal.join(vm, console, from_now=False)


@contextmanager
def _asked_to_end(vm: Vm, group: asyncio.TaskGroup) -> Iterator[None]:
    """Stop the machine when a signal asks for it: with the guest's consent, without it the second time."""
    loop = asyncio.get_running_loop()
    asked: list[asyncio.Task[object]] = []

    def ask() -> None:
        asked.append(group.create_task(vm.quit() if asked else stop(vm)))

    def hang_up() -> None:
        asked.append(group.create_task(vm.quit()))

    handlers = {SIGINT: ask, SIGTERM: ask, SIGHUP: hang_up}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def _exit_code(vm: Vm, end: Exit) -> int:
    if end.reason in _GOOD_ENDS:
        return 0
    if end.reason is ExitReason.EXITED and end.status is not None:
        return end.status
    raise KvmctlError(f"machine {vm.name!r} did not end well: {end.reason}", detail=end.detail)


def _run_command(opening: _Opening, command: list[str], *, timeout: float | None) -> int:
    try:
        return session.run(_launch_and_run(opening, command), timeout=timeout, doing=f"run {command[0]!r}")
    except KvmctlError as error:
        output.fail(error)
        return TIMED_OUT if isinstance(error, session.TimeIsUp) else OUR_FAILURE


async def _launch_and_run(opening: _Opening, command: list[str]) -> int:
    async with opening() as vm:
        _warn(vm)
        await vm.wait_for_agent()
        return (await stream(vm, command)).exit_code


def _warn(vm: Vm) -> None:
    for warning in vm.plan.warnings:
        output.warn(f"{vm.name}: {warning}")
