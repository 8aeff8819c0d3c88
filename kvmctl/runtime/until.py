"""What is waited for before a machine is frozen: a state of it that shows, never a number of seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, get_args

from kvmctl.errors import KvmctlError
from kvmctl.runtime.vm import Vm

Kind: TypeAlias = Literal["agent", "console", "port"]

_PORT_MAX: Final = 65535
_LISTENS: Final = (
    'until grep -q ":{port:04X} [0-9A-F]*:0000 0A" /proc/net/tcp /proc/net/tcp6 2>/dev/null; do sleep 0.05; done'
)
"""The guest's own list of who listens. From outside it can't be told: QEMU's user network accepts every connection,
whether there is anybody behind it or not."""


@dataclass(frozen=True, slots=True)
class Until:
    """A state of the guest; `argument` is the regular expression of ``console``, the number of ``port``."""

    kind: Kind
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind


def parse_until(text: str) -> Until:
    """``agent``, ``console:REGEX``, ``port:N``; KvmctlError is raised for all else."""
    kind, _, argument = text.partition(":")
    if kind not in get_args(Kind) or (kind == "agent") is bool(argument) or (kind == "port" and not _is_port(argument)):
        raise KvmctlError(
            f"{text!r} is nothing to wait for", hint="One of: agent, console:REGEX, port:N with a port of the guest"
        )
    return Until(cast("Kind", kind), argument)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) <= _PORT_MAX


async def wait_until(vm: Vm, until: Until) -> None:
    """Wait until the guest has come to it. Raises NotRunning where the machine ends before."""
    match until.kind:
        case "agent":
            await vm.wait_for_agent()
        case "console":
            await vm.wait_for_console(until.argument)
        case "port":
            await vm.wait_for_agent()
            await vm.exec(["/bin/sh", "-c", _LISTENS.format(port=int(until.argument))])
