"""The words of `kvmctl.testing.words` for callers without an event loop: each waits until it is done."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from kvmctl.runtime.events import Exit
from kvmctl.runtime.vm import Vm
from kvmctl.testing.loop import LoopThread
from kvmctl.testing.words import PATIENCE, AsyncGuest

_T = TypeVar("_T")


class Guest:
    """A guest of a machine that lives on `loop`; see `AsyncGuest` for what each word raises."""

    def __init__(self, asynchronous: AsyncGuest, loop: LoopThread) -> None:
        self.asynchronous = asynchronous
        """The same guest, for ``await``."""
        self._loop = loop

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.vm!r}>"

    @property
    def name(self) -> str:
        """The machine's name, as ``kvmctl list`` has it."""
        return self.vm.name

    @property
    def vm(self) -> Vm:
        """The machine as the library has it; what it does is to be awaited by `await_`."""
        return self.asynchronous.vm

    def await_(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for something that the machine does: ``guest.await_(guest.vm.pause())``."""
        return self._loop.run(work)

    def execute(self, command: str, *, timeout: float = PATIENCE) -> tuple[int, str]:
        """Run `command`; its exit code and what it printed on standard output."""
        return self._loop.run(self.asynchronous.execute(command, timeout=timeout))

    def succeed(self, *commands: str, timeout: float = PATIENCE) -> str:
        """Run commands that must succeed, one after the other; what they printed."""
        return self._loop.run(self.asynchronous.succeed(*commands, timeout=timeout))

    def fail(self, *commands: str, timeout: float = PATIENCE) -> str:
        """Run commands that must fail, one after the other; what they printed."""
        return self._loop.run(self.asynchronous.fail(*commands, timeout=timeout))

    def wait_until_succeeds(self, command: str, *, timeout: float = PATIENCE) -> str:
        """Run `command` until it succeeds; what it printed then."""
        return self._loop.run(self.asynchronous.wait_until_succeeds(command, timeout=timeout))

    def wait_until_fails(self, command: str, *, timeout: float = PATIENCE) -> str:
        """Run `command` until it fails; what it printed then."""
        return self._loop.run(self.asynchronous.wait_until_fails(command, timeout=timeout))

    def wait_for_unit(self, unit: str, *, timeout: float = PATIENCE) -> None:
        """Wait until a systemd unit is active; one that runs once and ends, until it has."""
        self._loop.run(self.asynchronous.wait_for_unit(unit, timeout=timeout))

    def wait_for_open_port(self, port: int, *, timeout: float = PATIENCE) -> None:
        """Wait until something in the guest listens on the TCP port."""
        self._loop.run(self.asynchronous.wait_for_open_port(port, timeout=timeout))

    def wait_for_file(self, path: str, *, timeout: float = PATIENCE) -> None:
        """Wait until there is a file of that path in the guest."""
        self._loop.run(self.asynchronous.wait_for_file(path, timeout=timeout))

    def wait_for_console_text(self, regex: str, *, timeout: float = PATIENCE) -> str:
        """Wait until `regex` is found on the serial console, printed before now or after; the line it is in."""
        return self._loop.run(self.asynchronous.wait_for_console_text(regex, timeout=timeout))

    def wait_for_agent(self, *, timeout: float = PATIENCE) -> None:
        """Wait until the guest's agent answers: until commands can be run."""
        self._loop.run(self.asynchronous.wait_for_agent(timeout=timeout))

    def wait_for_shutdown(self, *, timeout: float = PATIENCE) -> Exit:
        """Wait until the machine has ended; how it did."""
        return self._loop.run(self.asynchronous.wait_for_shutdown(timeout=timeout))

    def copy_to_guest(self, source: str | os.PathLike[str], target: str, *, timeout: float = PATIENCE) -> None:
        """Copy a file or a directory of the host to `target` in the guest."""
        self._loop.run(self.asynchronous.copy_to_guest(source, target, timeout=timeout))

    def copy_from_guest(self, source: str, target: str | os.PathLike[str], *, timeout: float = PATIENCE) -> None:
        """Copy a file or a directory of the guest to `target` on the host."""
        self._loop.run(self.asynchronous.copy_from_guest(source, target, timeout=timeout))

    def screenshot(self, path: str | os.PathLike[str]) -> None:
        """Save what the first display shows to `path` as PNG."""
        self._loop.run(self.asynchronous.screenshot(path))

    def send_key(self, key: str) -> None:
        """Press keys together: ``ctrl-alt-delete``, ``ret``, ``a``."""
        self._loop.run(self.asynchronous.send_key(key))

    def send_chars(self, text: str) -> None:
        """Type `text` on the keyboard, a US one."""
        self._loop.run(self.asynchronous.send_chars(text))

    def send_console(self, text: str) -> None:
        """Type `text` on the first serial console."""
        self._loop.run(self.asynchronous.send_console(text))

    def block(self) -> None:
        """Pull the cables of all its networks."""
        self._loop.run(self.asynchronous.block())

    def unblock(self) -> None:
        """Plug the cables of all its networks in again."""
        self._loop.run(self.asynchronous.unblock())

    def crash(self) -> None:
        """Cut its power."""
        self._loop.run(self.asynchronous.crash())

    def start(self, *, timeout: float = PATIENCE) -> None:
        """Power it on again after its end, from its own disks, and wait until commands can be run; without an agent,
        until it runs. Nothing to do where it runs."""
        self._loop.run(self.asynchronous.start(timeout=timeout))

    def reboot(self, *, timeout: float = PATIENCE) -> None:
        """Have the guest reboot, and wait until commands can be run again; without an agent, until it was reset."""
        self._loop.run(self.asynchronous.reboot(timeout=timeout))

    def shutdown(self, *, timeout: float = PATIENCE) -> Exit:
        """Have the guest power off, and wait for that; how the machine ended."""
        return self._loop.run(self.asynchronous.shutdown(timeout=timeout))
