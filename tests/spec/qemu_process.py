"""A real QEMU started from a plan, as a launcher would but with nothing kept: for tests that ask what QEMU says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvmctl.plan.model import Listen, MakeFifos, OpenFile, Pair, Plan, Tap, VhostNet
from kvmctl.plan.option import render
from kvmctl.runtime import deferred

STRICT = ("-compat", "deprecated-input=reject,unstable-input=reject")


@dataclass
class Qemu:
    """A running QEMU, its monitor and what it has printed."""

    process: subprocess.Popen[bytes]
    monitor: socket.socket
    stream: Any
    log: Path
    directory: Path

    def connect(self, fd: str) -> socket.socket:
        """A connection to the socket that QEMU listens on as `fd`, which QEMU has taken: what is said now is heard."""
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.directory / f"{fd}.sock"))
        while self._is_disconnected({"console": "serial0"}.get(fd, fd)):
            pass  # each question is a turn of QEMU's main loop, which takes the connection in one of them
        return client

    def _is_disconnected(self, chardev: str) -> bool:
        found = {entry["label"]: entry["filename"] for entry in self.command("query-chardev")}
        return str(found[chardev]).startswith("disconnected:")

    def command(self, execute: str, **arguments: Any) -> Any:
        self.monitor.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
        for line in self.stream:
            reply = json.loads(line)
            if "return" in reply:
                return reply["return"]
            assert "error" not in reply, reply
        raise AssertionError(f"QEMU hung up: {self.log.read_text()}")

    def hmp(self, line: str) -> str:
        return str(self.command("human-monitor-command", **{"command-line": line}))

    def wait_event(self, name: str) -> dict[str, Any]:
        for line in self.stream:
            event = json.loads(line)
            if event.get("event") == name:
                return dict(event)
        raise AssertionError(f"no {name}: {self.log.read_text()}")


@contextmanager
def running(plan: Plan, *extra: str) -> Iterator[Qemu]:
    """QEMU from `plan`, paused, refusing deprecated input; `extra` goes to the end of its command line."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kq")))
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        stack.enter_context(theirs)
        fds = dict(_descriptors(plan, theirs, directory, stack))
        for step in plan.steps:
            if isinstance(step, MakeFifos):
                _make_fifos(step.path)
        log, journal = directory / "log", directory / "journal"
        argv = [plan.qemu, *render(plan.options, fds), *STRICT, *extra]
        with log.open("wb") as talk, journal.open("wb") as events:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=events, stderr=talk, pass_fds=tuple(fds.values())
            )
        stack.callback(_end, process)
        theirs.close()
        ours.settimeout(60)
        stream = stack.enter_context(ours.makefile("rb"))
        greeting = stream.readline()
        assert b"QMP" in greeting, f"QEMU said: {log.read_text()}\n{argv}"
        qemu = Qemu(process, ours, stream, log, directory)
        qemu.command("qmp_capabilities")
        yield qemu


def _make_fifos(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for fifo in (f"{path}.in", f"{path}.out"):
        if not os.path.exists(fifo):
            os.mkfifo(fifo)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin:
        process.stdin.close()


def _descriptors(plan: Plan, theirs: socket.socket, directory: Path, stack: ExitStack) -> Iterator[tuple[str, int]]:
    for source in plan.fds:
        match source:
            case Listen(fd):
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(directory / f"{fd}.sock"))
                listener.listen()
                yield fd, listener.fileno()
            case Pair(fd):
                yield fd, theirs.fileno()
            case OpenFile(fd, path):
                number = os.open(path, os.O_RDWR)
                stack.callback(os.close, number)
                yield fd, number
            case Tap(fds):
                yield from _closed_later(fds, deferred.open_tap(source), stack)
            case VhostNet(fds):
                yield from _closed_later(fds, deferred.open_vhost_net(source), stack)
    for helper in plan.helpers:
        number, _ = deferred.start_helper(helper, env=os.environ, undo=stack)
        yield from _closed_later((helper.fd,), [number], stack)


def _closed_later(names: tuple[str, ...], numbers: list[int], stack: ExitStack) -> Iterator[tuple[str, int]]:
    for name, number in zip(names, numbers, strict=True):
        stack.callback(os.close, number)
        yield name, number
