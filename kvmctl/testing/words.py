"""A guest in the words of the NixOS test driver, which authors of harnesses know; asynchronous.

Every wait is a command within the guest that ends when it is so, or an event that QEMU tells; see
`kvmctl.testing.facade` for the same words without ``await``. Where the words come from:
https://nixos.org/manual/nixos/stable/#sec-nixos-tests.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import update_wrapper
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from kvmctl.errors import CommandFailed, DeadlineExceeded, NotRunning
from kvmctl.guest.run import ExecResult
from kvmctl.runtime import conditions, stop
from kvmctl.runtime.end import Rung
from kvmctl.runtime.events import Exit
from kvmctl.runtime.inside import run_inside
from kvmctl.runtime.sockets import connect_unix
from kvmctl.runtime.vm import Vm
from kvmctl.testing import keys, waits
from kvmctl.testing.loop import on_loop

PATIENCE: Final = 300.0
"""Seconds for a word, unless its caller says otherwise: a guest without KVM on a busy host is slow."""
_SAID_MAX: Final = 4000
_OWN_RUNGS: Final = frozenset({Rung.AGENT, Rung.ACPI, Rung.ACPI_AGAIN})
"""The steps of the stop ladder after which it was the guest that shut down."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _word(
    work: Callable[Concatenate[AsyncGuest, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[AsyncGuest, _P], Coroutine[Any, Any, _T]]:
    """`work` done on the loop that the machine lives on, from whichever loop it is asked for; its errors judged."""

    async def judged(self: AsyncGuest, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with self.vm.judged():
            return await work(self, *args, **kwargs)

    async def hop(self: AsyncGuest, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await on_loop(self.loop, judged(self, *args, **kwargs))

    update_wrapper(hop, work)
    return hop


class AsyncGuest:
    """The guest of `vm`, a machine of the running loop. May be used from other loops, as those of single tests are.

    Commands are the guest's shell's, run by its agent as root, or over ssh where it has no agent. Every word has
    `timeout` seconds, and raises DeadlineExceeded after them, AgentError where the agent fails, NotRunning where the
    machine ends: each with a verdict.
    """

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        """The machine as the library has it, on its own loop."""
        self.loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.vm!r}>"

    @property
    def name(self) -> str:
        """The machine's name, as ``kvmctl list`` has it."""
        return self.vm.name

    # -- commands ------------------------------------------------------------------------------------------------

    @_word
    async def execute(self, command: str, *, timeout: float = PATIENCE) -> tuple[int, str]:
        """Run `command`; its exit code and what it printed on standard output."""
        result = await self._run(command, timeout=timeout)
        return result.exit_code, _text(result.stdout)

    @_word
    async def succeed(self, *commands: str, timeout: float = PATIENCE) -> str:
        """Run commands that must succeed, one after the other; what they printed. Raises CommandFailed."""
        output = []
        for command in commands:
            result = await self._run(command, timeout=timeout)
            if result.exit_code:
                raise self._failed(command, f"failed with exit code {result.exit_code}", result)
            output.append(_text(result.stdout))
        return "".join(output)

    @_word
    async def fail(self, *commands: str, timeout: float = PATIENCE) -> str:
        """Run commands that must fail, one after the other; what they printed. Raises CommandFailed."""
        output = []
        for command in commands:
            result = await self._run(command, timeout=timeout)
            if not result.exit_code:
                raise self._failed(command, "succeeded, and had to fail", result)
            output.append(_text(result.stdout))
        return "".join(output)

    # -- waits ---------------------------------------------------------------------------------------------------

    @_word
    async def wait_until_succeeds(self, command: str, *, timeout: float = PATIENCE) -> str:
        """Run `command` until it succeeds; what it printed then."""
        return await self._watch(waits.until_succeeds(command), f"{command!r} to succeed", timeout=timeout)

    @_word
    async def wait_until_fails(self, command: str, *, timeout: float = PATIENCE) -> str:
        """Run `command` until it fails; what it printed then."""
        return await self._watch(waits.until_succeeds(command, fails=True), f"{command!r} to fail", timeout=timeout)

    @_word
    async def wait_for_unit(self, unit: str, *, timeout: float = PATIENCE) -> None:
        """Wait until a systemd unit is active; one that runs once and ends, until it has. Raises WaitFailed where it
        fails."""
        said = _Said()
        async with self._within(timeout, f"unit {unit!r}", said):
            await conditions.wait_unit(self.vm, unit, note=said.note)

    @_word
    async def wait_for_open_port(self, port: int, *, timeout: float = PATIENCE) -> None:
        """Wait until something in the guest listens on the TCP port."""
        said = _Said()
        async with self._within(timeout, f"port {port}", said):
            await conditions.wait_port(self.vm, str(port), note=said.note)

    @_word
    async def wait_for_file(self, path: str, *, timeout: float = PATIENCE) -> None:
        """Wait until there is a file of that path in the guest."""
        await self._watch(waits.until_file(path), f"file {path!r}", timeout=timeout)

    @_word
    async def wait_for_console_text(self, regex: str, *, timeout: float = PATIENCE) -> str:
        """Wait until `regex` is found on the serial console, printed before now or after; the line it is in.

        What was printed before the machine was frozen is in no fork's console.
        """
        async with self._within(timeout, f"{regex!r} on the console"):
            return await self.vm.wait_for_console(regex)

    @_word
    async def wait_for_agent(self, *, timeout: float = PATIENCE) -> None:
        """Wait until the guest's agent answers: until commands can be run."""
        async with self._within(timeout, "the guest agent"):
            await self.vm.wait_for_agent()

    @_word
    async def wait_for_shutdown(self, *, timeout: float = PATIENCE) -> Exit:
        """Wait until the machine has ended; how it did."""
        async with self._within(timeout, "the machine to end"):
            return await self.vm.wait()

    # -- files, keys and pictures --------------------------------------------------------------------------------

    @_word
    async def copy_to_guest(self, source: str | os.PathLike[str], target: str, *, timeout: float = PATIENCE) -> None:
        """Copy a file or a directory of the host to `target` in the guest. Raises NotFound, CopyFailed."""
        async with self._within(timeout, f"{os.fspath(source)!r} to be copied"):
            await self.vm.exec(["mkdir", "-p", posixpath.dirname(target) or "/"])
            await self.vm.copy_in(os.fspath(source), target)

    @_word
    async def copy_from_guest(self, source: str, target: str | os.PathLike[str], *, timeout: float = PATIENCE) -> None:
        """Copy a file or a directory of the guest to `target` on the host. Raises NotFound, CopyFailed."""
        async with self._within(timeout, f"{source!r} to be copied"):
            await self.vm.copy_out(source, os.fspath(target))

    @_word
    async def screenshot(self, path: str | os.PathLike[str]) -> None:
        """Save what the first display shows to `path` as PNG. Raises QmpError where there is no display."""
        await self.vm.screenshot(os.fspath(path))

    @_word
    async def send_key(self, key: str) -> None:
        """Press keys together: ``ctrl-alt-delete``, ``ret``, ``a``. Raises QmpError where QEMU knows no such key."""
        await self._press(keys.chord(key))

    @_word
    async def send_chars(self, text: str) -> None:
        """Type `text` on the keyboard, a US one."""
        for character in text:
            await self._press(keys.keys_of(character))

    @_word
    async def send_console(self, text: str) -> None:
        """Type `text` on the first serial console. Raises NotRunning where that is not to be reached."""
        try:
            with connect_unix(self.vm.paths.console) as console:
                await self.loop.sock_sendall(console, text.encode())
        except OSError as error:
            raise NotRunning(f"the console of {self.name!r} can't be reached: {error.strerror}") from error

    # -- power and cables ----------------------------------------------------------------------------------------

    @_word
    async def block(self) -> None:
        """Pull the cables of all its networks."""
        await self._set_links(up=False)

    @_word
    async def unblock(self) -> None:
        """Plug the cables of all its networks in again."""
        await self._set_links(up=True)

    @_word
    async def crash(self) -> None:
        """Cut its power."""
        await self.vm.kill()

    @_word
    async def reboot(self, *, timeout: float = PATIENCE) -> None:
        """Have the guest reboot, and wait until commands can be run again; without an agent, until it was reset."""
        async with self._within(timeout, "the guest to reboot"):
            has_agent = self.vm.plan.guest.agent is not None
            async with self._resetting():
                await (self.vm.agent().shut_down("reboot") if has_agent else self._press(["ctrl", "alt", "delete"]))
            if has_agent:
                await Vm.wait_for_agent(self.vm)  # a fork takes it that its agent has answered long ago

    @_word
    async def shutdown(self, *, timeout: float = PATIENCE) -> Exit:
        """Have the guest power off, and wait for that; how the machine ended. Raises DeadlineExceeded where it does
        not: its power is cut then."""
        result = await stop.stop(self.vm, grace=timeout)
        if result.rung not in _OWN_RUNGS:
            said = "\n".join(f"{rung}: {outcome}" for rung, outcome in result.tried)
            raise DeadlineExceeded(f"the guest of {self.name!r} did not power off within {timeout:g} s", detail=said)
        return result.exit

    # ------------------------------------------------------------------------------------------------------------

    async def _run(self, command: str, *, timeout: float) -> ExecResult:
        async with self._within(timeout, f"{command!r} to end"):
            return await run_inside(self.vm, ["sh", "-c", command])

    async def _watch(self, argv: Sequence[str], what: str, *, timeout: float) -> str:
        said, output = _Said(), bytearray()
        async with self._within(timeout, what, said):
            result = await run_inside(self.vm, argv, on_stdout=output.extend, on_stderr=said.feed)
        if result.exit_code:
            raise CommandFailed(f"waiting for {what} in {self.name!r} was in vain", detail=str(said))
        return _text(bytes(output))

    @asynccontextmanager
    async def _resetting(self) -> AsyncIterator[None]:
        """What is done within has the machine reset, which is waited for at the end."""
        was_reset = asyncio.ensure_future(self.vm.wait_for_event("RESET"))
        await asyncio.sleep(0)  # it is on its way now: one that is cancelled before was never awaited, and says so
        try:
            yield
            await was_reset
        finally:
            was_reset.cancel()
            await asyncio.gather(was_reset, return_exceptions=True)

    def _within(self, seconds: float, what: str, said: _Said | None = None) -> AbstractAsyncContextManager[None]:
        return self.vm.within(seconds, f"wait for {what}", seen=said or "")

    async def _press(self, names: Sequence[str]) -> None:
        await self.vm.qmp("send-key", {"keys": [{"type": "qcode", "data": name} for name in names]})

    async def _set_links(self, *, up: bool) -> None:
        for network in self.vm.plan.networks:
            await self.vm.qmp("set_link", {"name": network.id, "up": up})

    def _failed(self, command: str, how: str, result: ExecResult) -> CommandFailed:
        output = _text(result.stdout + result.stderr)[-_SAID_MAX:].strip()
        return CommandFailed(f"{command!r} {how} in {self.name!r}", detail=output)


class _Said:
    """The last of what a wait has seen."""

    def __init__(self) -> None:
        self._text = ""

    def note(self, line: str) -> None:
        """It sees `line`."""
        self._text = f"{self._text}\n{line}"[-_SAID_MAX:]

    def feed(self, data: bytes) -> None:
        """It has printed `data`."""
        self._text = f"{self._text}{_text(data)}"[-_SAID_MAX:]

    def __str__(self) -> str:
        seen = "\n".join(self._text.strip().splitlines()[-10:])
        return seen and f"last seen: {seen}"


def _text(output: bytes) -> str:
    return output.decode(errors="replace")
