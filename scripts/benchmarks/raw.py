"""A QEMU started by hand: the same arguments as a plan's, and as little around them as can be."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kvmctl.plan.model import Listen, MakeFifos, Pair, Plan
from kvmctl.runtime.spawn import command_line


@contextmanager
def raw_qemu(plan: Plan, directory: Path) -> Iterator[None]:
    """QEMU with the arguments of `plan`, past the reply to ``cont`` when the context is entered; killed when left."""
    with ExitStack() as stack:
        numbers, monitor = {}, None
        for source in plan.fds:
            if isinstance(source, Listen):
                Path(source.path).parent.mkdir(parents=True, exist_ok=True)
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(source.path)
                listener.listen()
                stack.callback(os.unlink, source.path)
                numbers[source.fd] = listener.fileno()
            elif isinstance(source, Pair):
                monitor, theirs = socket.socketpair()
                stack.enter_context(monitor)
                numbers[source.fd] = stack.enter_context(theirs).fileno()
        for step in plan.steps:
            if isinstance(step, MakeFifos):
                Path(step.path).parent.mkdir(parents=True, exist_ok=True)
                for fifo in (f"{step.path}.in", f"{step.path}.out"):
                    os.mkfifo(fifo, 0o600)
                    stack.callback(os.unlink, fifo)
        read, feed = os.pipe()
        stack.callback(os.close, read)
        stack.callback(os.close, feed)
        os.write(feed, b'{"execute":"qmp_capabilities"}')
        journal = stack.enter_context((directory / "journal").open("wb"))
        log = stack.enter_context((directory / "log").open("wb"))
        process = subprocess.Popen(
            command_line(plan, numbers), stdin=read, stdout=journal, stderr=log, pass_fds=(*numbers.values(), feed)
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        theirs.close()  # or a QEMU that dies would be waited for
        assert monitor is not None
        talk(monitor)
        yield


def talk(monitor: socket.socket) -> None:
    """Greeting, negotiation, ``cont`` and its reply."""
    with monitor.makefile("rb") as replies:
        replies.readline()
        for command in ("qmp_capabilities", "cont"):
            monitor.sendall(json.dumps({"execute": command}).encode())
            while b'"return"' not in replies.readline():
                pass  # RESUME comes before the reply
