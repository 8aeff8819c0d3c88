"""A plan becomes a process: open everything, hand it over, exec QEMU.

QEMU is given descriptors and never opens what we can open for it, so its sandbox may forbid it to start anything.
Nothing here waits for QEMU: the sockets listen before it exists, and whoever connects is answered as soon as it is
up.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, assert_never

from kvmctl import files
from kvmctl.errors import Busy, LaunchFailed, QemuNotFound
from kvmctl.image import ofd
from kvmctl.plan.guest import TellGuest
from kvmctl.plan.layers import SharedLock
from kvmctl.plan.model import PRIVATE, FdSource, Listen, OpenFile, Pair, Plan, StoreSecret, Tap, VhostNet
from kvmctl.plan.option import render
from kvmctl.plan.paths import MachinePaths
from kvmctl.runtime import deferred
from kvmctl.runtime.process import Process, disown, reap_disowned
from kvmctl.runtime.sockets import BACKLOG, listen_unix
from kvmctl.runtime.store import Claim

if TYPE_CHECKING:
    from kvmctl.runtime.helpers import RunningHelper

_NEGOTIATE = b'{"execute":"qmp_capabilities"}\n'


class Child(NamedTuple):
    """A QEMU of ours that was just started: stopped before its first instruction, its private monitor connected."""

    popen: subprocess.Popen[bytes]
    process: Process
    monitor: socket.socket
    ends: Mapping[str, socket.socket]
    """Our ends of the other socket pairs, by their names in the plan."""
    listeners: tuple[socket.socket, ...]
    """Our copies of the sockets that QEMU listens on."""
    numbers: Mapping[str, int]
    """The descriptors that QEMU has from us, by their names in the plan."""
    spawned: float
    """When it was started, in seconds since the epoch."""
    helpers: tuple[RunningHelper, ...] = ()

    def reap(self) -> int | None:
        """QEMU's exit status if it has ended (negative for a signal); collects the process."""
        return self.popen.poll()

    def widen_backlogs(self) -> None:
        """Let clients queue at the sockets: QEMU, once it is up, has cut each queue to one, and the rest would hang."""
        for listener in self.listeners:
            listener.listen(BACKLOG)

    def close_sockets(self) -> None:
        """Let go of our ends of QEMU's sockets."""
        for ours in (self.monitor, *self.ends.values(), *self.listeners):
            ours.close()

    def disown(self) -> None:
        """QEMU goes on without us."""
        # Popen would complain on collection that its child still runs; that it does is the point.
        self.popen.returncode = 0
        disown(self.popen.pid)
        for helper in self.helpers:
            helper.disown()

    def end_helpers(self) -> None:
        """Wait for the end of the helpers, which have nobody to serve once QEMU has ended."""
        for helper in self.helpers:
            helper.end()


class _Opened:
    """The descriptors that QEMU is to inherit, by their names in the plan, open until the stack is closed."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.numbers: dict[str, int] = {}
        self.ends: dict[str, socket.socket] = {}
        self.listeners: list[socket.socket] = []

    def keep(self, name: str, descriptor: int) -> None:
        self._stack.callback(os.close, descriptor)
        self.numbers[name] = descriptor

    def open(self, source: FdSource) -> None:
        match source:
            case Listen(fd, path):
                self.listeners.append(listen_unix(path))
                self.keep(fd, os.dup(self.listeners[-1].fileno()))
            case Pair(fd):
                self.ends[fd], theirs = socket.socketpair()
                self.keep(fd, theirs.detach())
            case OpenFile(fd, path, mode):
                self.keep(fd, _open_file(path, mode))
            case Tap(fds):
                self._keep_all(fds, deferred.open_tap(source))
            case VhostNet(fds):
                self._keep_all(fds, deferred.open_vhost_net(source))
            case SharedLock(fd, path):
                self.keep(fd, _open_shared(path))
            case _:
                assert_never(source)

    def take_ours(self) -> tuple[socket.socket, Mapping[str, socket.socket], tuple[socket.socket, ...]]:
        """Our ends of the private monitor and of other pairs, our copies of the listening sockets: now the caller's."""
        ends, listeners = self.ends, tuple(self.listeners)
        self.ends, self.listeners = {}, []
        return ends.pop(PRIVATE), ends, listeners

    def close_ours(self) -> None:
        """Close what nobody took."""
        for ours in (*self.listeners, *self.ends.values()):
            ours.close()

    def _keep_all(self, names: tuple[str, ...], descriptors: list[int]) -> None:
        for name, descriptor in zip(names, descriptors, strict=True):
            self.keep(name, descriptor)


def spawn(plan: Plan, claim: Claim) -> Child:
    """Start QEMU by `plan`, with the lock of `claim`. Raises LaunchFailed, HostError, StateError."""
    paths = claim.paths
    with ExitStack() as undo, ExitStack() as stack:
        opened = _Opened(stack)
        stack.callback(opened.close_ours)
        for source in plan.fds:
            opened.open(source)
        if PRIVATE not in opened.ends:
            raise LaunchFailed(f"the plan of {plan.name!r} has no private monitor")
        helpers = tuple(_start_helpers(plan, opened, undo))
        stdin, feed = _journal_input(stack)
        reap_disowned()
        spawned = time.time()
        popen = _exec(plan, paths, opened.numbers, stdin=stdin, inherited=(claim.lock, feed))
        process = _adopt(popen, claim)
        undo.pop_all()
        return Child(popen, process, *opened.take_ours(), opened.numbers, spawned, helpers)
    raise LaunchFailed(f"cannot start {plan.name!r}")  # unreachable: the block above returns or raises


def _start_helpers(plan: Plan, opened: _Opened, undo: ExitStack) -> Iterator[RunningHelper]:
    """Start what QEMU connects to; `undo` ends it, once `opened` has let go of the connections."""
    for helper in plan.helpers:
        descriptor, running = deferred.start_helper(helper, env=_environment(plan), undo=undo)
        opened.keep(helper.fd, descriptor)
        yield running


def _adopt(popen: subprocess.Popen[bytes], claim: Claim) -> Process:
    """The process that was just started, on record in its run directory; ended if that fails."""
    with ExitStack() as undo:
        undo.callback(_end, popen)
        process = undo.enter_context(Process(popen.pid, os.pidfd_open(popen.pid)))
        claim.release_lock()
        files.write_atomic(claim.paths.pid, b"%d\n" % popen.pid, is_volatile=True)
        undo.pop_all()
    return process


def _end(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait()


def command_line(plan: Plan, numbers: Mapping[str, int]) -> list[str]:
    """The whole command line, with the descriptors' numbers filled in."""
    return [*plan.wrapper, plan.qemu, *render(plan.options, numbers)]


def _exec(
    plan: Plan, paths: MachinePaths, numbers: Mapping[str, int], *, stdin: int, inherited: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    with ExitStack() as stack:
        outputs = []
        for path in (paths.journal, paths.qemu_log):
            outputs.append(files.open_append(path, truncate=True))
            stack.callback(os.close, outputs[-1])
        try:
            return subprocess.Popen(
                command_line(plan, numbers),
                stdin=stdin,
                stdout=outputs[0],
                stderr=outputs[1],
                pass_fds=(*numbers.values(), *inherited),
                env=_environment(plan),
                cwd="/",
                umask=0o177,  # QEMU makes no directories, but sockets, which would be executable
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise QemuNotFound(f"there is no QEMU at {plan.qemu!r}", hint="See: kvmctl doctor") from error
        except OSError as error:
            raise LaunchFailed(f"cannot run {plan.qemu!r}: {error.strerror}") from error
    raise LaunchFailed(f"cannot run {plan.qemu!r}")  # unreachable: the block above returns or raises


def _journal_input(stack: ExitStack) -> tuple[int, int]:
    """A pipe that holds the journal monitor's opening words. QEMU inherits both ends, so it never ends."""
    read, write = os.pipe()
    stack.callback(os.close, read)
    stack.callback(os.close, write)
    os.write(write, _NEGOTIATE)
    return read, write


def _environment(plan: Plan) -> dict[str, str]:
    """Our environment without the secrets, which every process of this user could read there."""
    secrets = {step.variable for step in plan.steps if isinstance(step, StoreSecret)}
    for step in plan.steps:
        if isinstance(step, TellGuest):
            secrets |= {source.value for source in step.first_boot.sources() if source.kind == "env"}
    return {name: value for name, value in os.environ.items() if name not in secrets}


def _open_shared(path: str) -> int:
    descriptor = _open_file(path, "read")
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        if not ofd.try_share(descriptor):
            raise Busy(f"{os.path.dirname(path)!r} is being replaced or removed", hint="Try again in a moment.")
        stack.pop_all()
    return descriptor


def _open_file(path: str, mode: str) -> int:
    if mode == "append":
        return files.open_append(path)
    flags = os.O_RDONLY if mode == "read" else os.O_RDWR
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchFailed(f"cannot open {path!r}: {error.strerror}") from error
