"""What machines have said, by their names: consoles, QEMU's log, events; so far, or followed to the end. No asyncio."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Self

from inotify_simple import flags

from kvmctl import files
from kvmctl.errors import NotFound
from kvmctl.plan.paths import MachinePaths, Roots, is_name
from kvmctl.runtime import listing, store
from kvmctl.runtime.events import Event, parse_lines
from kvmctl.runtime.journal import Tail
from kvmctl.runtime.watch import Watch, watch_path


class Log(StrEnum):
    """A log of a machine."""

    CONSOLE = "console"
    """What the first serial console printed, from byte 0."""
    QEMU = "qemu"
    """What QEMU itself printed."""


class Happening(NamedTuple):
    """An event of a machine."""

    machine: str
    event: Event


def read_log(name: str, log: Log, *, follow: bool = False, roots: Roots | None = None) -> Iterator[bytes]:
    """The log of the machine's present or last run, in pieces; with `follow` until the machine ends.

    Raises NotFound where there is no such machine, it never ran, or keeps no log.
    """
    paths = _find_run(name, roots)
    if log is Log.CONSOLE and not listing.has_console_log(paths):
        raise listing.no_console_log(name)
    path = paths.console_log if log is Log.CONSOLE else paths.qemu_log
    with Tail(path) as tail:
        for _ in _changes(paths, path) if follow else range(1):
            yield from tail.pieces()


def read_events(name: str, *, follow: bool = False, roots: Roots | None = None) -> Iterator[Happening]:
    """Every event of the machine's present or last run; with `follow` until the machine ends. Raises NotFound."""
    paths = _find_run(name, roots)
    with Tail(paths.journal) as tail:
        for _ in _changes(paths, paths.journal) if follow else range(1):
            for event in parse_lines(tail.lines()):
                yield Happening(name, event)


def read_all_events(*, follow: bool = False, roots: Roots | None = None) -> Iterator[Happening]:
    """Every event of every machine's present or last run, by time; with `follow` also those to come, without an end."""
    roots = roots or store.find_roots()
    with _Journals(roots) as journals:
        yield from journals.read()
        while follow:
            journals.wait()
            yield from journals.read()


def _find_run(name: str, roots: Roots | None) -> MachinePaths:
    roots = roots or store.find_roots()
    listing.find_machine(name, roots=roots)
    paths = roots.machine(name)
    if not os.path.exists(paths.journal):
        raise NotFound(f"machine {name!r} has not run yet", hint=f"Start it: kvmctl start {name}")
    return paths


def _changes(paths: MachinePaths, path: str) -> Iterator[None]:
    """Now, then whenever the file at `path` is written to, and a last time when the machine has ended."""
    process = store.find_process(paths)
    if process is None:
        yield
        return
    with process, Watch(path, process) as watch:
        while True:
            has_ended = process.wait(0)  # looked at before the caller reads: nothing is written after the end
            yield
            if has_ended:
                return
            watch.wait()


class _Journal:
    """The journal of one run, kept open: once it has lost its name, another run has another one."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  # closed by the stack it is pushed on
        self._rest = b""

    def events(self) -> list[Event]:
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        return parse_lines(line.decode(errors="replace") for line in whole)

    def has_name(self) -> bool:
        return os.fstat(self._file.fileno()).st_nlink > 0

    def close(self) -> None:
        self._file.close()


class _Journals:
    """The journals of all machines, those that come while we look included."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._open: dict[str, _Journal] = {}
        files.make_private_dir(roots.runtime)
        self._inotify = watch_path(roots.runtime, flags.CREATE | flags.MOVED_TO)

    def read(self) -> list[Happening]:
        """What was written since the last call, by time."""
        found = [Happening(name, event) for name in self._names() for event in self._read(name)]
        return sorted(found, key=lambda happening: happening.event.time)

    def _names(self) -> list[str]:
        return sorted({name for name in store.run_names(self._roots) if is_name(name)} | set(self._open))

    def _read(self, name: str) -> list[Event]:
        paths = self._roots.machine(name)
        with suppress(OSError):  # it may go while we look
            self._inotify.add_watch(paths.run, flags.MODIFY | flags.CREATE)  # before reading, so that nothing is missed
        journal = self._open.get(name)
        events = journal.events() if journal is not None else []
        if journal is not None and not journal.has_name():
            self._open.pop(name).close()
            journal = None
        if journal is None:
            with suppress(OSError):
                self._open[name] = _Journal(paths.journal)
                events += self._open[name].events()
        return events

    def wait(self) -> None:
        """Wait until something was written, or a machine came."""
        select.select([self._inotify], [], [])
        self._inotify.read(timeout=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.callback(self._inotify.close)
            for journal in self._open.values():
                stack.callback(journal.close)
