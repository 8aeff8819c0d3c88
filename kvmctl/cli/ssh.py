"""``kvmctl ssh``, ``kvmctl shell``, ``kvmctl ssh-config``."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from kvmctl import (
    KvmctlError,
    Login,
    NotRunning,
    SshLog,
    Unreachable,
    Vm,
    find_login,
    find_ssh,
    find_ssh_failure,
    list_machines,
    ssh_command,
    ssh_configuration,
)
from kvmctl.cli import output, session
from kvmctl.cli.arguments import Name, complete_machine
from kvmctl.cli.executing import OUR_FAILURE

_SSH_FAILED: Final = 255
_BECOME_ROOT: Final = "sh -c 'command -v sudo >/dev/null || exec doas su -; exec sudo --login'"
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

User = Annotated[str | None, typer.Option("--user", "-u", metavar="USER", help="Log in as this user, not the spec's.")]


def ssh(
    name: Name,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND...]", help="Run this; its words go to a shell, joined.")
    ] = None,
    user: User = None,
    terminal: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")] = False,
) -> None:
    """Log in to a machine over ssh, or run a command there.

    The way in, the port and the keys are known: a forward to port 22 where the spec has one, else one that is made for
    this run, else the guest's own address. Where kvmctl made the guest's keys there is nothing to be trusted on first
    sight; elsewhere the first host key seen is kept, and another one refused.

    The exit code is the command's own, as with ssh itself; 125 says that kvmctl, or ssh, could not get in.

    \b
    kvmctl ssh web
    kvmctl ssh web -- journalctl --unit nginx --follow
    kvmctl ssh web --user root 'cat >/etc/motd' <motd
    """
    raise typer.Exit(_attend(name, command or [], user=user, terminal=terminal))


def shell(
    name: Name,
    user: User = None,
    root: Annotated[bool, typer.Option("--root", help="Become root there, with sudo or doas.")] = False,
) -> None:
    """Open a shell in a machine, on this terminal.

    It is the login shell of the spec's user, over ssh: the guest agent has no terminal to give. Where no ssh gets in,
    the serial console may: kvmctl console. The exit code is the shell's; 125 says that there was none.

    \b
    kvmctl shell web
    kvmctl shell web --root
    """
    command = [_BECOME_ROOT] if root and user != "root" else []
    raise typer.Exit(_attend(name, command, user=user, terminal=True))


def ssh_config(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The machine's name.", autocompletion=complete_machine),
    ] = None,
    user: User = None,
    every: Annotated[bool, typer.Option("--all", help="Of all running machines that can be reached.")] = False,
) -> None:
    """Print ssh's configuration of a machine, for ssh, scp, rsync and editors.

    The machine is called kvmctl-NAME there. It is good for this run: a port that was found for it may be another the
    next time; a forward with a port of its own in the spec stays.

    \b
    kvmctl ssh-config web >web.ssh && scp -F web.ssh notes.txt kvmctl-web:
    rsync -e 'ssh -F web.ssh' -a src/ kvmctl-web:src/
    kvmctl ssh-config --all >~/.ssh/kvmctl.conf     # Include kvmctl.conf in ~/.ssh/config
    """
    if every is (name is not None):
        raise typer.BadParameter("give a machine's name, or --all")
    if name is not None:
        output.emit(ssh_configuration(_login(name, user)).rstrip("\n"))
        return
    for machine in list_machines():
        try:
            output.emit(ssh_configuration(_login(machine.name, user)))
        except (Unreachable, NotRunning) as error:
            output.warn(error.summary)


def _login(name: str, user: str | None) -> Login:
    async def find(vm: Vm) -> Login:
        vm.check_halted()
        return await find_login(vm, user=user)

    return session.on_machine(name, find)


def _attend(name: str, command: list[str], *, user: str | None, terminal: bool) -> int:
    """Run ssh in the foreground; its exit code, or 125 for what was not the command's."""
    try:
        find_ssh()
        return _run(_login(name, user), command, terminal=terminal)
    except KvmctlError as error:
        output.fail(error)
        return OUR_FAILURE


def _run(login: Login, command: list[str], *, terminal: bool) -> int:
    # The log, not the terminal, is told what goes wrong, so that it can be said what it means and what to do.
    with SshLog() as log:
        argv = ssh_command(login, command, terminal=terminal and sys.stdin.isatty(), log=log.path)
        with subprocess.Popen(argv) as child, _passing_on_signals(child) as passed_on:
            status = child.wait()
        failure = find_ssh_failure(login, log.read()) if status == _SSH_FAILED else None
    if failure is not None and passed_on:
        return 128 + passed_on[-1]  # it was told to end
    if failure is not None:
        raise failure
    return status if status >= 0 else 128 - status


@contextmanager
def _passing_on_signals(child: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Let ssh decide what a signal means, since it puts the terminal right at its end; those that came are told."""
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        child.send_signal(number)

    before = {number: signal.getsignal(number) for number in _PASSED_ON}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
