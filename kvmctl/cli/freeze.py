"""``kvmctl freeze`` and ``thaw``: a guest's file systems held still."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated

import typer

from kvmctl import KvmctlError, NotFound, Vm
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Name


def freeze(
    name: Name,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="A command of this host, run meanwhile.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", min=0, metavar="SECONDS", help="Thaw them after that at the latest.")
    ] = None,
) -> None:
    """Freeze a machine's file systems while a command runs here, or until Ctrl-C.

    What is on the machine's disks is whole meanwhile. They are thawed at the end, however that comes; should kvmctl be
    killed, the next command that asks the guest anything thaws them. The command's exit code becomes ours; where its
    time is up, it is ended, with 124.

    \b
    kvmctl freeze web -- lvcreate --snapshot --name web-backup --size 5G vg/web
    kvmctl freeze web --for 30
    """

    async def work(vm: Vm) -> int:
        async with vm.frozen() as count:
            output.say(f"{name}: {_many(count)} frozen")
            return await (_run(command, seconds) if command else _wait(seconds))

    code = session.on_machine(name, work)
    output.say(f"{name}: thawed")
    raise typer.Exit(code)


def thaw(name: Name) -> None:
    """Thaw a machine's file systems, where whoever froze them has not.

    Those that a kvmctl which is still there keeps frozen are thawed when it ends.
    """
    count = session.on_machine(name, lambda vm: vm.thaw())
    output.say(f"{name}: {_many(count)} thawed")


async def _wait(seconds: float | None) -> int:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_future()
    return 0


async def _run(command: list[str], seconds: float | None) -> int:
    try:
        process = await asyncio.create_subprocess_exec(*command)
    except FileNotFoundError as error:
        raise NotFound(f"there is no command {command[0]!r}") from error
    except OSError as error:
        raise KvmctlError(f"cannot run {command[0]!r}: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError:
        return 124
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return code if code >= 0 else 128 - code


def _many(count: int) -> str:
    return "1 file system" if count == 1 else f"{count} file systems"
