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
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from kvmctl import files
from kvmctl.errors import KvmctlError, TemplateDamaged, TemplateMisfit
from kvmctl.plan import preset
from kvmctl.plan.paths import Roots
from kvmctl.runtime import specs, store, template
from kvmctl.runtime.fork import Template
from kvmctl.runtime.making import OnFailure, create_template
from kvmctl.runtime.vm import Vm
from kvmctl.spec.load import from_mapping, read_mapping
from kvmctl.spec.machine import Machine
from kvmctl.testing.ahead import Ahead
from kvmctl.testing.blueprint import PATIENCE, Blueprint, merged
from kvmctl.testing.evidence import Evidence, gather
from kvmctl.testing.loop import LoopThread

_KEPT_SECONDS: Final = 14 * 24 * 3600.0
"""How long a template is kept that no run has used."""
_PREFIX: Final = "pytest-"
_WAY_IN: Final = "It has ended. To boot such a machine again and leave it running: pytest --vm-cold --vm-keep-failed"


@dataclass(frozen=True, slots=True)
class Settings:
    """What pytest's command line and configuration say."""

    root: str
    """The directory that relative paths of specs count from."""
    spec: str
    cold: bool = False
    keep_failed: bool = False
    artifacts: str = ""
    """The directory for what is known of machines that failed; empty where nothing is to be kept."""
    patience: float = PATIENCE


@dataclass(frozen=True, slots=True)
class Order:
    """A blueprint with its spec read."""

    machine: Machine
    until: str | None
    run: tuple[str, ...]
    hostname: str
    patience: float
    """Seconds to come to where it is frozen."""

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
        self._templates: dict[tuple[str, float], asyncio.Future[Template]] = {}
        self._failures: dict[tuple[str, float], Evidence] = {}

    def close(self) -> None:
        """End the loop; the machines of tests have been given back by now."""
        self.loop.run(self.ahead.drop())
        self.loop.close()

    def order(self, blueprint: Blueprint) -> Order:
        """The blueprint with its spec read. Raises SpecError, NotFound, StateError, KvmctlError."""
        reference = os.fspath(blueprint.spec or self.settings.spec)
        if specs.is_path(reference):
            reference = os.path.join(self.settings.root, reference)
        machine = _load(reference, changes=blueprint.keys)
        patience = self.settings.patience if blueprint.patience is None else blueprint.patience
        if not (isinstance(patience, int | float) and patience > 0):
            raise KvmctlError(f"{patience!r} is no patience to have", hint="In seconds, more than 0: patience=60")
        return Order(machine, blueprint.until or None, blueprint.run, blueprint.hostname, patience)

    async def template(self, order: Order) -> Template:
        """The template of `order`, made by whoever needs it first. What went wrong once is not tried again."""
        key = _key(order)
        if key not in self._templates:
            self._templates[key] = asyncio.ensure_future(self._make(order))
        return await asyncio.shield(self._templates[key])

    def find_template(self, order: Order) -> Template | None:
        """The template of `order`, if it is made already."""
        made = self._templates.get(_key(order))
        return made.result() if made is not None and made.done() and made.exception() is None else None

    def find_failure(self, order: Order) -> Evidence | None:
        """What was known of the machine that should have become the template of `order`, if there was one."""
        return self._failures.get(_key(order))

    async def _make(self, order: Order) -> Template:
        async def note(vm: Vm) -> None:
            found = await gather(vm, directory=self.settings.artifacts)
            self._failures[_key(order)] = replace(found, sections={**found.sections, "how to get in": _WAY_IN})

        roots = store.find_roots()
        return await _make(order, roots, on_failure=note)


def _key(order: Order) -> tuple[str, float]:
    """What went wrong for want of patience is another matter with more of it."""
    return order.template, order.patience


def _load(reference: str, *, changes: Mapping[str, Any]) -> Machine:
    """The machine of that name, or in that file, with other keys."""
    spec = specs.find_spec(reference)
    is_image = preset.find_image(spec) is not None
    written = tomllib.loads(specs.read_text(spec)) if is_image else read_mapping(spec)
    named = {"name": stem_of(spec), **merged(written, changes)}
    source = f"{spec} with what the test changes" if changes else spec
    return from_mapping(named, source=source, base="/" if is_image else os.path.dirname(spec))


def stem_of(path: str) -> str:
    """The name of a spec's file without its ending."""
    return os.path.basename(path).rsplit(".", 1)[0]


async def _make(order: Order, roots: Roots, *, on_failure: OnFailure) -> Template:
    name = order.template
    make = partial(
        create_template,
        name,
        order.machine,
        until=order.until,
        run=order.run,
        patience=order.patience,
        on_failure=on_failure,
        roots=roots,
    )
    async with _alone(name, roots):
        try:
            found = await make()
        except (TemplateMisfit, TemplateDamaged):
            found = await make(refresh=True)
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
