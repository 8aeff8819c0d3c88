"""Plans kept from the last start, so that starting an unchanged machine needs neither pydantic nor the compiler.

A plan is what `compile_plan` makes of a spec, the host, a QEMU and the directories, and it is pure: as long as all of
these are the same, so is the plan. kvmctl's own code counts among them. Whatever can't be told counts as changed. They
are kept and compared as they are: the library that makes digests takes longer to load.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from zlib import crc32

from kvmctl import files
from kvmctl.errors import KvmctlError
from kvmctl.host.binary import identify
from kvmctl.host.identity import find_qemu, identify_host
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import Roots
from kvmctl.runtime import specs

_KEPT = 200
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_DECIDING = (".", "plan", "spec", "spec/devices")
"""The folders of the package whose code a plan comes from."""


class Entry(NamedTuple):
    """The place of a plan in the cache: that of one spec file, started under one name."""

    roots: Roots
    spec: str
    name: str | None

    def load(self) -> Plan | None:
        """The plan, if it is there and what it was made from is as it was."""
        with suppress(OSError, ValueError, KeyError, TypeError, KvmctlError):
            with open(self._path, encoding="utf-8") as file:
                record = json.load(file)
            plan = Plan.loads(record["plan"])
            if record["made_of"] == self._made_of(plan.name, record["qemu"]):
                return plan
        return None

    def save(self, plan: Plan, *, qemu: str | None) -> None:
        """Keep `plan`, made with the QEMU that the spec asks for as `qemu`; failing that costs nothing but time."""
        with suppress(OSError, KvmctlError):
            made_of = self._made_of(plan.name, qemu)
            if made_of is None:
                return
            files.make_private_dir(self.roots.plan_cache)
            self._make_room()
            record = {"made_of": made_of, "qemu": qemu, "plan": plan.dumps()}
            files.write_atomic(self._path, json.dumps(record).encode(), is_volatile=True)

    def discard(self) -> None:
        """Forget the plan."""
        with suppress(OSError):
            os.unlink(self._path)

    @property
    def _path(self) -> str:
        key = crc32(f"{self.spec}\0{self.name or ''}".encode())  # who shares one takes turns: see what it is made of
        return os.path.join(self.roots.plan_cache, f"{key:08x}.json")

    def _made_of(self, name: str, qemu: str | None) -> list[Any] | None:
        """All that the plan depends on, as JSON has it; None where the QEMU has no identity to be trusted."""
        binary = find_qemu(qemu, env=os.environ)
        identity = identify(binary, env=os.environ)
        if identity is None:
            return None
        return [
            specs.read_text(self.spec),
            self.spec,
            name,
            list(self.roots),
            specs.read_pin(self.roots.machine(name)),
            binary,
            identity,
            identify_host(os.environ),
            list(_code()),
        ]

    def _make_room(self) -> None:
        entries = sorted(os.scandir(self.roots.plan_cache), key=lambda entry: entry.stat().st_mtime)
        for entry in entries[: max(0, len(entries) - _KEPT)]:
            os.unlink(entry.path)


def _code() -> Iterator[list[str | int]]:
    """Name, size and time of every file of the code that decides."""
    for folder in _DECIDING:
        for entry in sorted(os.scandir(os.path.join(_PACKAGE, folder)), key=lambda entry: entry.name):
            if entry.name.endswith(".py"):
                status = entry.stat()
                yield [entry.name, status.st_size, status.st_mtime_ns]
