"""``kvmctl run``: in the foreground, with its console on this terminal, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Annotated, Final, TypeAlias

import typer

import kvmctl
from kvmctl import (
    Exit,
    ExitReason,
    KvmctlError,
    Sightings,
    Verdict,
    Vm,
    has_likely_login,
    open_console,
    stop,
    wait_to_run_inside,
)
from kvmctl.cli import hostroot, output, session, terminal
from kvmctl.cli.arguments import OptionalSpec, complete_template
from kvmctl.cli.exec import TIMED_OUT, Way, say_way, stream
from kvmctl.cli.executing import OUR_FAILURE
from kvmctl.cli.pulling import pulling_what_is_missing
from kvmctl.cli.streams import Interrupted

_GOOD_ENDS: Final = {ExitReason.GUEST_SHUTDOWN, ExitReason.GUEST_RESET, ExitReason.HOST_QUIT}

_Opening: TypeAlias = Callable[[], AbstractAsyncContextManager[Vm]]
"""Makes the machine that is run, for as long as the context lasts."""


def run(
    machine: OptionalSpec = None,
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
    host_root: hostroot.Flag = False,
    root: hostroot.Root = None,
    kernel: hostroot.Kernel = None,
    modules: hostroot.Modules = None,
    fetch: hostroot.Fetch = False,
    append: hostroot.Append = "",
    rw: hostroot.Writable = False,
    rwdir: hostroot.Write = None,
    cwd: hostroot.Directory = None,
    user: hostroot.User = None,
    env: hostroot.Env = None,
    network: hostroot.Network = False,
    memory: hostroot.Memory = None,
    cpus: hostroot.Cpus = None,
) -> None:
    """Run a machine in the foreground, its console on this terminal.

    It ends with this command, whatever ends that, and what it kept for itself goes with it. Ctrl-] ends it; SIGTERM,
    and SIGINT where the console has no terminal, ask the guest to power down, and a second one does not ask. The exit
    code is 0 if the guest powered off, QEMU's own if the guest chose one, and 1 after a crash.

    With a command, that is run once the guest agent answers, or one can log in over ssh, whichever is first, and its
    exit code becomes ours, as with kvmctl exec: 124 says that the time was up, 125 that it did not come to it.

    An image's name stands for a machine of it: 2 CPUs, 1 GiB of memory, a network of its own and a disk that is an
    overlay of the image, which is pulled first if it is not there. Its console logs you in by itself. kvmctl argv NAME
    shows it.

    With --host-root the machine is made of this host, and there is no spec: a kernel, and the host's root directory,
    which the guest can't write whatever it does, or with --root another one. Without a command that is a shell. Its
    streams are ours, byte for byte, its terminal is this one, and Ctrl-C and SIGTERM are the command's; a second one
    ends the machine.

    \b
    kvmctl run tiny
    kvmctl run debian-12
    kvmctl run machines/small-linux.toml -- uname -a
    kvmctl run --template web -- curl -s http://localhost
    kvmctl run --host-root --kernel linux-image-cloud-amd64 -- uname -a
    kvmctl run --host-root --kernel arch/x86/boot/bzImage --rwdir . -- make check
    """
    options = hostroot.Options(
        root, kernel, modules, fetch, append, rw, tuple(rwdir or ()), cwd, user, tuple(env or ()), network, memory, cpus
    )
    words = [*([machine] if machine is not None else ()), *(command or ())]  # with what is no machine before them
    if host_root or root is not None:
        if name is not None:
            raise typer.BadParameter("a machine made of this host has no name to be given", param_hint="--name")
        raise typer.Exit(hostroot.run(words, options, timeout=timeout))
    if options != hostroot.Options():
        raise typer.BadParameter("one of the options is for machines made of this host", param_hint="--host-root")
    if template is not None:
        opening: _Opening = partial(_fork, template, name=name)
    elif machine is not None:
        opening, words = partial(kvmctl.launch, machine, name=name), command or []
    else:
        raise typer.BadParameter("no machine is named", param_hint="MACHINE")
    if words:
        raise typer.Exit(_run_command(opening, words, timeout=timeout))
    doing = f"run {template or machine}"
    raise typer.Exit(pulling_what_is_missing(lambda: session.run(_run(opening), timeout=timeout, doing=doing)))


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
    way_in = f", and kvmctl ssh {vm.name} logs in beside" if has_likely_login(vm) else ""
    output.say(f"{vm.name} runs; {terminal.LEAVE_KEY_NAME} ends it{way_in}")
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
    seen, verdicts = Sightings(), list[Verdict]()
    work = partial(_launch_and_run, opening, command, seen, verdicts)
    doing = f"run {command[0]!r}"
    try:
        return pulling_what_is_missing(lambda: session.run(work(), timeout=timeout, doing=doing, evidence=seen))
    except Interrupted as error:
        return 128 + error.number
    except KvmctlError as error:
        if isinstance(error, session.TimeIsUp) and verdicts:
            error.verdict = verdicts[-1]
        output.fail(error)
        return TIMED_OUT if isinstance(error, session.TimeIsUp) else OUR_FAILURE


async def _launch_and_run(opening: _Opening, command: list[str], seen: Sightings, verdicts: list[Verdict]) -> int:
    """The command's exit code; who cancels it finds in `verdicts` what had become of the machine by then."""
    async with opening() as vm:
        _warn(vm)
        try:
            way = Way(await wait_to_run_inside(vm, seen=seen))
        except asyncio.CancelledError:
            with suppress(KvmctlError):
                verdicts.append(vm.verdict())
            raise
        say_way(vm, way)
        return (await stream(vm, command, way=way)).exit_code


def _warn(vm: Vm) -> None:
    for warning in vm.plan.warnings:
        output.warn(f"{vm.name}: {warning}")
