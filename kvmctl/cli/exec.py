"""``kvmctl exec``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from kvmctl import Control, ExecResult, KvmctlError, Vm, attach, run_inside
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Name
from kvmctl.cli.executing import OUR_FAILURE
from kvmctl.cli.streams import Interrupted, signals_to, stdin_pieces

TIMED_OUT: Final = 124


class Way(StrEnum):
    """The ways to run a command in a guest."""

    agent = "agent"
    ssh = "ssh"


def exec_(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="[--] COMMAND...", help="The command and its arguments.")],
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-t", min=0, metavar="SECONDS", help="End it after that.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="Set a variable for it.")
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="USER", help="Run it as this user of the guest.")
    ] = None,
    cwd: Annotated[
        str | None, typer.Option("--cwd", "-w", metavar="DIRECTORY", help="Run it in this directory of the guest.")
    ] = None,
    stdin: Annotated[bool, typer.Option("--stdin", "-i", help="Give it what comes on standard input.")] = False,
    way: Annotated[
        Way | None, typer.Option("--via", help="By this way only, and say nothing of it.", case_sensitive=False)
    ] = None,
) -> None:
    """Run a command inside a machine, through its guest agent or ssh.

    The agent needs no network, and ssh is for guests without one; which it is, is said where it is ssh.

    Its output comes as it is written, and its exit code becomes ours: 126 if it can't be run, 127 if it is not found in
    the guest, 128 and the signal's number if a signal ended it. 124 says that the time was up, 125 that kvmctl itself
    failed (no machine, no agent). SIGINT and SIGTERM go to the command and what it has started; a second one ends it.
    Should kvmctl be killed, the next command that asks the guest anything ends it.

    \b
    kvmctl exec web -- uname -a
    kvmctl exec web --timeout 60 -- sh -c 'apt-get update && apt-get -y upgrade'
    kvmctl exec web --user www-data --cwd /srv -- ls -l
    tar c . | kvmctl exec web --stdin -- tar x -C /srv
    """
    variables = _variables(env or [])

    async def work() -> ExecResult:
        async with attach(name) as vm:
            return await stream(vm, command, way=way, env=variables, user=user, cwd=cwd, stdin=stdin)

    try:
        result = session.run(work(), timeout=timeout, doing=f"run {command[0]!r} in {name!r}")
    except Interrupted as error:
        raise typer.Exit(128 + error.number) from error
    except KvmctlError as error:
        output.fail(error)
        raise typer.Exit(TIMED_OUT if isinstance(error, session.TimeIsUp) else OUR_FAILURE) from error
    raise typer.Exit(result.exit_code)


async def stream(
    vm: Vm,
    command: list[str],
    *,
    way: Way | None = None,
    env: dict[str, str] | None = None,
    user: str | None = None,
    cwd: str | None = None,
    stdin: bool = False,
) -> ExecResult:
    """Run `command` in the guest, its output on ours as it comes, our signals for it, and our input if `stdin`."""

    def say(chosen: str) -> None:
        if way is None:
            say_way(vm, chosen)

    control = Control()
    with signals_to(control):
        result = await run_inside(
            vm,
            command,
            way=None if way is None else way.value,
            on_way=say,
            env=env,
            user=user,
            cwd=cwd,
            stdin=stdin_pieces() if stdin else b"",
            on_stdout=output.emit_bytes,
            on_stderr=output.say_bytes,
            control=control,
        )
    if result.truncated:
        output.warn("there was more output than the guest agent keeps, and it was cut")
    return result


def say_way(vm: Vm, way: str) -> None:
    """Say by what way a command goes into the guest, where that is not the usual one."""
    if way == Way.ssh:
        output.say(f"{vm.name}: through ssh, since no guest agent has spoken")


def _variables(pairs: list[str]) -> dict[str, str]:
    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise typer.BadParameter(f"{wrong!r} is not NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
