"""The machines of a test run: templates made once, under a lock, and forks of them for every test.

A template is called after a digest of all that its blueprint says, so that the next run, and every worker of this
one, finds it. All of it is done on one event loop in a thread that stays; see `kvmctl.testing.loop`.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from kvmctl import files
from kvmctl.errors import DeadlineExceeded, KvmctlError, TemplateDamaged, TemplateMisfit
from kvmctl.plan.paths import Roots
from kvmctl.runtime import store, template
from kvmctl.runtime.fork import Template
from kvmctl.runtime.making import create_template
from kvmctl.runtime.specs import find_spec, is_path
from kvmctl.spec.load import from_mapping, read_mapping
from kvmctl.spec.machine import Machine
from kvmctl.testing.ahead import Ahead
from kvmctl.testing.blueprint import Blueprint, merged
from kvmctl.testing.loop import LoopThread

_BOOT_SECONDS: Final = 600.0
"""Seconds for a machine to boot and be frozen, its commands included."""
_KEPT_SECONDS: Final = 14 * 24 * 3600.0
"""How long a template is kept that no run has used."""
_PREFIX: Final = "pytest-"


@dataclass(frozen=True, slots=True)
class Settings:
    """What pytest's command line and configuration say."""

    root: str
    """The directory that relative paths of specs count from."""
    spec: str
    cold: bool = False
    keep_failed: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """A blueprint with its spec read."""

    machine: Machine
    until: str | None
    run: tuple[str, ...]
    hostname: str

    @property
    def template(self) -> str:
        """What its template is called."""
        said = {"spec": self.machine.model_dump(mode="json"), "until": self.until, "run": self.run}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return f"{_PREFIX}{self.machine.name[:40]}-{digest[:12]}"


class Lab:
    """All machines of one test process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loop = LoopThread()
        self.ahead = Ahead()
        self._templates: dict[str, asyncio.Future[Template]] = {}

    def close(self) -> None:
        """End the loop; the machines of tests have been given back by now."""
        self.loop.run(self.ahead.drop())
        self.loop.close()

    def order(self, blueprint: Blueprint) -> Order:
        """The blueprint with its spec read. Raises SpecError, NotFound, StateError."""
        reference = os.fspath(blueprint.spec or self.settings.spec)
        if is_path(reference):
            reference = os.path.join(self.settings.root, reference)
        path = find_spec(reference)
        spec = merged(read_mapping(path), blueprint.keys)
        source = f"{path} with what the test changes" if blueprint.keys else path
        machine = from_mapping({"name": stem_of(path), **spec}, source=source, base=os.path.dirname(path))
        return Order(machine, blueprint.until or None, blueprint.run, blueprint.hostname)

    async def template(self, order: Order) -> Template:
        """The template of `order`, made by whoever needs it first. What went wrong once is not tried again."""
        name = order.template
        if name not in self._templates:
            self._templates[name] = asyncio.ensure_future(_make(name, order, store.find_roots()))
        return await asyncio.shield(self._templates[name])

    def find_template(self, order: Order) -> Template | None:
        """The template of `order`, if it is made already."""
        made = self._templates.get(order.template)
        return made.result() if made is not None and made.done() and made.exception() is None else None


def stem_of(path: str) -> str:
    """The name of a spec's file without its ending."""
    return os.path.basename(path).rsplit(".", 1)[0]


async def _make(name: str, order: Order, roots: Roots) -> Template:
    async with _alone(name, roots):
        try:
            async with asyncio.timeout(_BOOT_SECONDS) as scope:
                try:
                    found = await create_template(name, order.machine, until=order.until, run=order.run, roots=roots)
                except (TemplateMisfit, TemplateDamaged):
                    found = await create_template(
                        name, order.machine, until=order.until, run=order.run, roots=roots, refresh=True
                    )
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(
                f"{order.machine.name!r} was not ready to be frozen in {_BOOT_SECONDS:g} s"
            ) from None
    if found.is_new:
        _remove_old(roots)
    return found


@asynccontextmanager
async def _alone(name: str, roots: Roots) -> AsyncIterator[None]:
    """Nobody else makes that template meanwhile."""
    path = roots.test_lock(name)
    files.make_private_dir(os.path.dirname(path))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
        os.utime(descriptor)  # that it was used is told by its time
        yield
    finally:
        os.close(descriptor)


def _remove_old(roots: Roots) -> None:
    """Remove templates of ours that no run has used for long: specs change, and each had one."""
    for name in template.template_names(roots=roots):
        with suppress(KvmctlError, OSError):
            if name.startswith(_PREFIX) and time.time() - os.stat(roots.test_lock(name)).st_mtime > _KEPT_SECONDS:
                template.remove_template(name, roots=roots)
                os.unlink(roots.test_lock(name))
