"""``kvmctl console``."""

from __future__ import annotations

from signal import SIGHUP, SIGTERM

from kvmctl import attach, open_console
from kvmctl.cli import output, session, terminal
from kvmctl.cli.arguments import Name


def console(name: Name) -> None:
    """Attach this terminal to a machine's console.

    Ctrl-] leaves; the machine runs on. One terminal at a time can type; to read along from another, use
    kvmctl logs --follow. What is piped in is typed; what the guest says is shown until it ends.

    \b
    kvmctl console web
    echo uptime | timeout 5 kvmctl console web
    """
    has_ended = session.run(_join(name))
    output.say(f"\nmachine {name!r} has ended" if has_ended else f"\nleft {name!r}, which runs on")


async def _join(name: str) -> bool:
    async with attach(name) as vm:
        with open_console(name) as guest:
            output.say(f"On the console of {name!r}; {terminal.LEAVE_KEY_NAME} leaves, the machine runs on")
            return await terminal.join(vm, guest, from_now=True, leave_on=(SIGTERM, SIGHUP))
