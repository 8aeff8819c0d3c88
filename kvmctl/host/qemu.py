"""Finding a QEMU and asking it, once, what it can do.

The binary is run with no machine and a monitor on its standard streams. All questions are written at once, ``quit``
last, so that it ends by itself even if we are killed meanwhile. Its replies are kept as they are; what they mean is
decided in ``kvmctl.plan.replies``.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from kvmctl.errors import HostError, QemuNotFound, QemuTooOld
from kvmctl.host import probe_cache
from kvmctl.host.binary import identify
from kvmctl.host.firmware import load_firmwares
from kvmctl.host.identity import PACKAGES
from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.features import FLOOR, is_supported
from kvmctl.plan.replies import Replies, facts_from_replies, version_of

DEADLINE: Final = 20.0
"""Seconds a binary has to answer. It takes about 0.08 on an idle machine."""

OUTPUT_LIMIT: Final = 16 << 20
"""Bytes of replies at most; a QEMU gives about half a MiB."""

Question: TypeAlias = tuple[str, dict[str, Any]]

QUERIES: Final[Mapping[str, Question]] = {
    "version": ("query-version", {}),
    "target": ("query-target", {}),
    "schema": ("query-qmp-schema", {}),
    "machines": ("query-machines", {}),
    # Types are listed by loading every module there is, so a type whose module is missing is not among them.
    "devices": ("qom-list-types", {"implements": "device", "abstract": False}),
    "objects": ("qom-list-types", {"implements": "user-creatable", "abstract": False}),
    "accelerators": ("qom-list-types", {"implements": "accel", "abstract": False}),
    "cpus": ("query-cpu-definitions", {}),
    "options": ("query-command-line-options", {}),
}
"""What a QEMU is asked, by the name its reply is kept under."""

# accel: only to get the monitor up. A build may lack TCG, and KVM may be unusable here.
_ARGUMENTS: Final = (
    *("-machine", "none,accel=tcg:kvm"),
    *("-nodefaults", "-no-user-config", "-S"),
    *("-display", "none"),
    *("-qmp", "stdio"),
)
_REPLY: Final = (b'{"return"', b'{"error"', b'{"id"')
"""How a line begins that answers a command, and is neither the greeting nor an event."""


def qemu_facts(path: str, *, cache: str | None, env: Mapping[str, str], remember: bool = True) -> QemuFacts:
    """What the QEMU at `path` can do, and the firmwares that are installed now, whatever the binary.

    Arguments and errors are those of `binary_facts`.
    """
    return replace(binary_facts(path, cache=cache, env=env, remember=remember), firmwares=load_firmwares(env))


def binary_facts(path: str, *, cache: str | None, env: Mapping[str, str], remember: bool = True) -> QemuFacts:
    """What the QEMU at `path` can do, from the files in the directory `cache` if it is the binary they describe.

    With `remember` false nothing is written. Raises QemuNotFound, QemuTooOld and HostError.
    """
    identity = identify(path, env=env) if cache is not None else None
    if cache is None or identity is None:
        return _derive(path, probe_qemu(path))
    entry = probe_cache.Entry(Path(cache), path, identity)
    facts = entry.load_facts()
    if facts is None:
        replies = entry.load_replies() or probe_qemu(path)
        facts = _derive(path, replies)
        if remember:
            entry.save(replies, facts)
    return facts


def probe_qemu(path: str, *, queries: Mapping[str, Question] = QUERIES) -> dict[str, Any]:
    """The raw replies (``{"return": ...}`` or ``{"error": ...}``) of the binary at `path`, by the queries' names.

    Raises QemuNotFound if there is no such file, QemuTooOld, and HostError with the binary's own words if it does not
    answer like a QEMU.
    """
    stdout, stderr = _converse(path, queries)
    messages = _parse(stdout)
    greeting = messages[0].get("QMP") if messages else None
    if greeting is None:
        raise HostError(
            f"{path!r} does not start as a QEMU system emulator",
            detail=stderr or stdout[:2000],
            hint=f"try it: {path} -machine none -nodefaults -display none",
        )
    try:
        version = version_of(greeting["version"])
    except (KeyError, TypeError) as error:
        raise HostError(f"{path!r} greets unlike any QEMU known", detail=stdout[:2000]) from error
    if not is_supported(version):
        found, floor = (".".join(map(str, numbers)) for numbers in (version, FLOOR[:2]))
        raise QemuTooOld(f"QEMU {found} at {path!r} is too old: kvmctl needs {floor} or newer", hint=PACKAGES)
    replies = {message.pop("id"): message for message in messages if message.get("id") in queries}
    for name in [name for name in queries if name not in replies]:
        raise HostError(f"{path!r} ended before it replied to {queries[name][0]}", detail=stderr)
    return replies


def _derive(path: str, replies: Replies) -> QemuFacts:
    target = replies["target"].get("return", {}).get("arch")
    if target != "x86_64":
        raise HostError(f"{path!r} emulates {target!r}; kvmctl runs x86_64 machines", hint=PACKAGES)
    try:
        return facts_from_replies(replies, path=path)
    except (ValueError, KeyError, TypeError) as error:
        raise HostError(f"{path!r} answers unlike any QEMU known", detail=f"{type(error).__name__}: {error}") from error


def _script(queries: Mapping[str, Question]) -> bytes:
    questions = {"": ("qmp_capabilities", {}), **queries}
    commands = [
        {"execute": command, "arguments": arguments, "id": name} for name, (command, arguments) in questions.items()
    ]
    return "\n".join(map(json.dumps, commands)).encode() + b"\n"


def _converse(path: str, queries: Mapping[str, Question]) -> tuple[str, str]:
    """What the binary prints to stdout when asked `queries`, and the end of what it prints to stderr."""
    with tempfile.TemporaryFile() as errors, _start(path, errors) as process:
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        alarm = threading.Timer(DEADLINE, expire)
        alarm.start()
        try:
            output = _exchange(process, _script(queries), replies=len(queries) + 1)
        finally:
            alarm.cancel()
            process.kill()
        said = _tail(errors)
    if expired.is_set():
        raise HostError(f"{path!r} did not answer within {DEADLINE:.0f} s", detail=said)
    return output.decode(errors="replace"), said


def _start(path: str, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen([path, *_ARGUMENTS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    except FileNotFoundError as error:
        raise QemuNotFound(f"there is no QEMU at {path!r}", hint=PACKAGES) from error
    except OSError as error:
        raise HostError(f"{path!r} can't be run: {error.strerror}", hint=PACKAGES) from error


def _exchange(process: subprocess.Popen[bytes], script: bytes, *, replies: int) -> bytes:
    """Writes `script` and reads until there are so many `replies`, or no more.

    Stdin stays open and nothing tells QEMU to quit: it would drop what it has not begun, and what nobody has read yet.
    """
    if process.stdin is None or process.stdout is None:
        return b""
    with suppress(BrokenPipeError):  # what it said before it left is the evidence
        os.write(process.stdin.fileno(), script)
    output = bytearray()
    while replies and (line := process.stdout.readline(OUTPUT_LIMIT - len(output))):
        output += line
        replies -= line.startswith(_REPLY)
    return bytes(output)


def _tail(errors: IO[bytes], *, size: int = 2000) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - size))
    return errors.read().decode(errors="replace")


def _parse(output: str) -> list[dict[str, Any]]:
    """The JSON objects in `output`, one a line; empty if it is something else."""
    try:
        messages = [json.loads(line) for line in output.splitlines()]
    except ValueError:
        return []
    return messages if all(isinstance(message, dict) for message in messages) else []
