"""A QEMU started by the test itself, with nothing of kvmctl but the tiny guest's bytes: what the guest does is proven
before anything is built on it."""

from __future__ import annotations

import json
import re
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

QEMU = "qemu-system-x86_64"
DEADLINE = 30.0
"""Seconds. Far above any answer, below a test runner's patience."""


class Stream:
    """One end of a socket pair whose other end is a character device of QEMU."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.seen = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def expect(self, pattern: bytes) -> re.Match[bytes]:
        """Read until `pattern` is found in what was not yet matched."""
        while not (match := re.search(pattern, self.seen)):
            try:
                data = self.socket.recv(65536)
            except (TimeoutError, ConnectionResetError):
                data = b""
            assert data, f"{pattern!r} did not come; seen: {self.seen[-2000:]!r}"
            self.seen += data
        self.seen = self.seen[match.end() :]
        return match

    def unread(self) -> bytes:
        """What has come and was not yet matched, without waiting for more."""
        while select.select([self.socket], [], [], 0)[0] and (data := self.socket.recv(65536)):
            self.seen += data
        return self.seen


class Qmp:
    """The monitor, as far as these tests need it: commands answered in order, events kept."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.events: list[dict[str, Any]] = []
        self._read()
        self.execute("qmp_capabilities")

    def _read(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._stream.expect(rb"[^\n]*\n").group())
        return message

    def execute(self, command: str, **arguments: object) -> Any:
        self._stream.send(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            message = self._read()
            if "event" not in message:
                assert "return" in message, message
                return message["return"]
            self.events.append(message)

    def wait_event(self, name: str) -> dict[str, Any]:
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            self.events.append(self._read())


class RawQemu:
    """The running machine: its console, its agent's channel, its monitor."""

    def __init__(self, process: subprocess.Popen[bytes], streams: dict[str, Stream]) -> None:
        self.process = process
        self.console = streams["console"]
        self.agent = streams["agent"]
        self.qmp = Qmp(streams["qmp"])
        with suppress(AssertionError):  # a guest that ends its QEMU at once can be quicker than the reply
            self.qmp.execute("cont")

    def wait(self) -> int:
        return self.process.wait(DEADLINE)


@contextmanager
def raw_qemu(log: Path, *options: str, memory: str = "16") -> Iterator[RawQemu]:
    """A QEMU with `options` and COM1, COM2 and QMP on socket pairs; killed at the end if it still runs."""
    with ExitStack() as stack:
        streams: dict[str, Stream] = {}
        theirs: dict[str, socket.socket] = {}
        for name in ("console", "agent", "qmp"):
            ours, theirs[name] = socket.socketpair()
            stack.callback(ours.close)
            ours.settimeout(DEADLINE)
            streams[name] = Stream(ours)
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-m", memory, "-S", *options]
        for name, sock in theirs.items():
            argv += ["-chardev", f"socket,id={name},fd={sock.fileno()}"]
        argv += ["-serial", "chardev:console", "-device", "isa-serial,chardev=agent", "-mon", "qmp,mode=control"]
        output = stack.enter_context(log.open("wb"))
        fds = tuple(sock.fileno() for sock in theirs.values())
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=fds)
        stack.callback(_end, process)
        for sock in theirs.values():
            sock.close()  # so that QEMU's end is the only one, and its death is our EOF
        yield RawQemu(process, streams)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(DEADLINE)
