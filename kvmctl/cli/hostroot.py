"""``kvmctl run --host-root``: a command in a machine made of this host, joined to this terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGQUIT, SIGTERM, SIGWINCH, Signals
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

import kvmctl
from kvmctl import KvmctlError
from kvmctl.cli import output, session, terminal
from kvmctl.cli.exec import TIMED_OUT
from kvmctl.cli.executing import OUR_FAILURE

if TYPE_CHECKING:  # the names are bound when a machine of this kind is made: kvmctl run has others
    from kvmctl import HostRoot, HostRootVm, Terminal

_PANEL: Final = "with --host-root: "

Flag: TypeAlias = Annotated[
    bool,
    typer.Option("--host-root", help="Make the machine of this host: its root directory, read-only, is the guest's."),
]
Root: TypeAlias = Annotated[
    str | None, typer.Option("--root", metavar="DIR", help="The same with another directory as the guest's root.")
]
Kernel: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--kernel",
        metavar="KERNEL",
        help=f"{_PANEL}a bzImage, a kernel's build tree, an installed version, or a package that apt fetches "
        "(linux-image-cloud-amd64); the kernel that runs unless given.",
    ),
]
Modules: TypeAlias = Annotated[
    str | None, typer.Option("--modules", metavar="DIR", help=f"{_PANEL}where the kernel's modules are.")
]
Fetch: TypeAlias = Annotated[bool, typer.Option("--fetch", help=f"{_PANEL}fetch the kernel's package anew.")]
Append: TypeAlias = Annotated[
    str, typer.Option("--append", metavar="WORDS", help=f"{_PANEL}more for the kernel's command line.")
]
Writable: TypeAlias = Annotated[
    bool, typer.Option("--rw", help=f"{_PANEL}it may write everywhere; what it wrote is gone with it.")
]
Write: TypeAlias = Annotated[
    list[str] | None, typer.Option("--rwdir", metavar="DIR", help=f"{_PANEL}a directory that it writes for real.")
]
Directory: TypeAlias = Annotated[
    str | None, typer.Option("--cwd", metavar="DIR", help=f"{_PANEL}where to run; here unless given.")
]
User: TypeAlias = Annotated[
    str | None,
    typer.Option("--user", metavar="USER", help=f"{_PANEL}run as that user, a name or a number; as root unless given."),
]
Env: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME[=VALUE]", help=f"{_PANEL}set a variable, or pass ours on."),
]
Network: TypeAlias = Annotated[bool, typer.Option("--network", help=f"{_PANEL}give it QEMU's user network.")]
Memory: TypeAlias = Annotated[
    str | None, typer.Option("--memory", metavar="SIZE", help=f"{_PANEL}its memory; 512MiB unless given.")
]
Cpus: TypeAlias = Annotated[
    int | None, typer.Option("--cpus", min=1, metavar="N", help=f"{_PANEL}its CPUs; 1 unless given.")
]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of such a machine; all of it unsaid by default."""

    root: str | None = None
    kernel: str | None = None
    modules: str | None = None
    fetch: bool = False
    append: str = ""
    writable: bool = False
    write: tuple[str, ...] = ()
    directory: str | None = None
    user: str | None = None
    env: tuple[str, ...] = ()
    network: bool = False
    memory: str | None = None
    cpus: int | None = None

    def wanted(self, *, for_shell: bool) -> HostRoot:
        """The machine that is asked for."""
        plain = kvmctl.HostRoot()
        return kvmctl.HostRoot(
            root=self.root or "/",
            kernel=self.kernel,
            modules=self.modules,
            fetch=self.fetch,
            cmdline=self.append,
            writable=self.writable,
            write=self.write,
            directory=self.directory,
            network=self.network,
            fresh=for_shell,  # who works in a shell changes files meanwhile
            memory=_size(self.memory) if self.memory else plain.memory,
            cpus=self.cpus or plain.cpus,
        )

    def command(self, words: Sequence[str]) -> list[str]:
        """`words`, or the shell where there are none."""
        return list(words) or [os.environ.get("SHELL", "/bin/sh") if self.root is None else "/bin/sh"]

    def variables(self) -> dict[str, str]:
        """What is added to the command's environment."""
        pairs = (item.partition("=") for item in self.env)
        return {name: value if given else os.environ.get(name, "") for name, given, value in pairs}


def run(words: Sequence[str], options: Options, *, timeout: float | None) -> int:
    """Run the command `words` in a machine made of this host; the exit code for this process."""
    argv = options.command(words)
    try:
        wanted = options.wanted(for_shell=not words)
        return session.run(_run(argv, wanted, options), timeout=timeout, doing=f"run {argv[0]!r}")
    except KvmctlError as error:
        output.fail(error)
        return TIMED_OUT if isinstance(error, session.TimeIsUp) else OUR_FAILURE


async def _run(argv: list[str], wanted: HostRoot, options: Options) -> int:
    given_up = _GivenUp()
    try:
        async with kvmctl.launch_host_root(wanted, say=output.say) as guest:
            _warn(guest)
            with _joined(guest, given_up) as terminal_size:
                result = await guest.run(
                    argv,
                    env=options.variables(),
                    user=options.user,
                    stdin=terminal.typed(),
                    terminal=terminal_size,
                    on_stdout=output.emit_bytes,
                    on_stderr=output.say_bytes,
                )
    except asyncio.CancelledError:
        if given_up.signal is None:
            raise
        return 128 + given_up.signal
    return result.exit_code


def _warn(guest: HostRootVm) -> None:
    if sys.stderr.isatty():  # where it is read by a program, only the command speaks
        for warning in guest.vm.plan.warnings:
            output.warn(warning)


@dataclass(slots=True)
class _GivenUp:
    """The signal that came a second time, so that nobody waits for the command to obey it."""

    signal: Signals | None = None


@contextmanager
def _joined(guest: HostRootVm, given_up: _GivenUp) -> Iterator[Terminal | None]:
    """This terminal is the command's, if there is one; signals are the command's in any case."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    seen: set[Signals] = set()

    def pass_on(number: Signals) -> None:
        if number in seen and task is not None:
            given_up.signal = number
            task.cancel()
        seen.add(number)
        guest.signal(number)

    for number in (SIGINT, SIGTERM, SIGQUIT):
        loop.add_signal_handler(number, pass_on, number)
    if not is_terminal:
        yield None
        return
    loop.add_signal_handler(SIGWINCH, lambda: guest.resize(*_terminal_size()))
    with terminal.raw_mode():
        yield kvmctl.Terminal(*_terminal_size())


def _terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal itself: the environment may tell those that another one had."""
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    return rows, columns


def _size(text: str) -> int:
    try:
        return kvmctl.parse_size(text)
    except KvmctlError as error:
        raise typer.BadParameter(f"{error.summary}; {error.hint}", param_hint="--memory") from error
