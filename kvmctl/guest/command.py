"""``guest-exec`` and ``guest-exec-status``: a command in the guest, started and asked after."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from kvmctl.errors import AgentError
from kvmctl.guest.reply import take, take_bytes
from kvmctl.guest.session import REPLY_MAX, Request
from kvmctl.guest.talk import Talk
from kvmctl.guest.words import check_command

_OUTPUT_MAX: Final = 48 << 20
"""Bytes of a reply with output: the agent cuts stdout and stderr at 16 MiB each, and base64 makes 4 of 3."""


class End(NamedTuple):
    """How a command ended. Output is what the agent captured, if it was asked to."""

    exit_code: int
    """128 and the signal's number for a command that a signal ended, as shells have it."""
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False
    """The agent cut the output (at 16 MiB)."""


async def start_command(turn: Talk, argv: Sequence[str], *, stdin: bytes = b"", capture: bool = False) -> int:
    """Start a command; returns its process id in the guest. Raises AgentError and DeadlineExceeded."""
    check_command(argv, stdin=stdin)
    arguments: dict[str, object] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": capture}
    if stdin:
        arguments["input-data"] = b2a_base64(stdin, newline=False).decode()
    pid = take(await turn.execute("guest-exec", arguments), "pid", int)
    turn.note_activity()
    return pid


async def find_end(turn: Talk, pid: int, *, captured: bool = False) -> End | None:
    """How the command ended, told once; None while it runs. Raises AgentError and DeadlineExceeded."""
    (reply,) = await turn.execute_all([status(pid)], limit=_OUTPUT_MAX if captured else REPLY_MAX)
    return parse_end(reply)


def status(pid: int) -> Request:
    """The request that asks how a command ended; see `parse_end`."""
    return "guest-exec-status", {"pid": pid}


def parse_end(reply: Any) -> End | None:
    """How a command ended, from the reply or the refusal; None while it runs. Raises AgentError."""
    if isinstance(reply, AgentError):
        if reply.error_class != "GenericError":
            raise reply
        raise AgentError(
            "the guest agent does not know the command any more: the guest, or the agent, was restarted meanwhile",
            detail=reply.summary,
        ) from reply
    if not take(reply, "exited", bool):
        return None
    signal = take(reply, "signal", int, 0)
    return End(
        exit_code=128 + signal if signal else take(reply, "exitcode", int, 0),
        signal=signal or None,
        stdout=take_bytes(reply, "out-data"),
        stderr=take_bytes(reply, "err-data"),
        truncated=_is_set(reply, "out-truncated") or _is_set(reply, "err-truncated"),
    )


async def run_captured(turn: Talk, argv: Sequence[str], *, stdin: bytes = b"") -> End:
    """Start a command and wait for its end; its output comes with it. Raises AgentError and DeadlineExceeded."""
    pid = await start_command(turn, argv, stdin=stdin, capture=True)
    while (end := await find_end(turn, pid, captured=True)) is None:
        await turn.rest()
    return end


def _is_set(reply: object, key: str) -> bool:
    return take(reply, key, bool, default=False)
