"""The machines of one test: raised from their blueprint, given back at its end."""

from __future__ import annotations

import os
import re
import secrets
import shlex
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from kvmctl.errors import KvmctlError
from kvmctl.plan.model import Plan
from kvmctl.plan.option import Form, Option
from kvmctl.plan.paths import MachinePaths
from kvmctl.plan.template import template_plan
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import registry, store
from kvmctl.runtime import start as starting
from kvmctl.runtime.attach import attach
from kvmctl.runtime.fork import Template
from kvmctl.runtime.prepare import prepare
from kvmctl.runtime.vm import Vm
from kvmctl.runtime.waiting import Sightings, meet, parse_guest_condition
from kvmctl.testing.blueprint import Blueprint
from kvmctl.testing.evidence import Evidence, gather
from kvmctl.testing.facade import Guest
from kvmctl.testing.lab import Lab, Order
from kvmctl.testing.words import AsyncGuest

_NAME_MAX: Final = 48
_VM_TEMPLATE: Final = "Let the fixture vm_template return a kvmctl.testing.Blueprint."
_MEMORY: Final = "ram"
"""The id that the compiler gives the machine's memory."""


class Machines:
    """The machines of the test `nodeid`, and how they are come by and given back."""

    def __init__(self, lab: Lab, *, nodeid: str) -> None:
        self._lab = lab
        self._nodeid = nodeid
        self._stack = AsyncExitStack()
        self._names: list[str] = []
        self._failures: list[Evidence] = []
        """What was known of machines that never became templates."""
        self._is_failed = False
        self.guests: list[AsyncGuest] = []
        self.kept: list[str] = []
        """Names of those that were left running."""

    def raise_(self, source: Blueprint | Template, words: dict[str, Any]) -> Guest:
        """A machine of `source`, changed by `words`, that runs and has been waited for."""
        return Guest(self._lab.loop.run(self.raise_async(source, words)), self._lab.loop)

    async def raise_async(self, source: Blueprint | Template, words: dict[str, Any]) -> AsyncGuest:
        """As `raise_`, on the loop of the machines."""
        name = _name_for(self._nodeid)
        self._names.append(name)
        if isinstance(source, Template):
            self._check_usable(source, words)
            return await self._fork(source, name, hostname="")
        if not isinstance(source, Blueprint):
            raise KvmctlError(f"{source!r} is nothing to make machines from", hint=_VM_TEMPLATE)
        order = self._lab.order(source.changed(words))
        if self._lab.settings.cold:
            return await self._boot(order, name)
        return await self._fork(await self._template(order), name, hostname=order.hostname)

    async def _template(self, order: Order) -> Template:
        try:
            return await self._lab.template(order)
        except KvmctlError:
            failure = self._lab.find_failure(order)
            self._failures += [failure] if failure is not None else []
            raise

    def _check_usable(self, template: Template, words: dict[str, Any]) -> None:
        """Raises KvmctlError where a template that was made elsewhere would have to be another one."""
        what = "--vm-cold" if self._lab.settings.cold else f"other {', '.join(map(repr, sorted(words)))}"
        if words or self._lab.settings.cold:
            raise KvmctlError(
                f"template {template.name!r} is made already, and can't be had with {what}", hint=_VM_TEMPLATE
            )

    async def _fork(self, template: Template, name: str, *, hostname: str) -> AsyncGuest:
        if self._lab.settings.keep_failed:  # a captive one could not be kept: the kernel ends it with us
            await template.fork_detached([name])
            guest = self._have_detached(attach(name, roots=template.roots))
            await _name(guest, hostname)
            return guest
        fork = await self._lab.ahead.take(template, nodeid=self._nodeid, hostname=hostname)
        if fork is None:
            fork = await template.fork(name=name, hostname=hostname)
        self._names.append(fork.name)
        self._stack.push_async_callback(fork.dispose)
        return self._have(fork)

    async def _boot(self, order: Order, name: str) -> AsyncGuest:
        """The machine as it would be frozen, in every respect but that."""
        is_captive = not self._lab.settings.keep_failed
        prepared = prepare(order.machine, name=name, is_captive=is_captive)
        plan = _cold_plan(prepared.plan, prepared.paths)
        if is_captive:
            guest = self._have(await self._stack.enter_async_context(starting.run_plan(plan, prepared.paths)))
        else:
            guest = self._have_detached(await starting.start_plan(plan, prepared.paths))
        await self._bring_up(guest, order)
        return guest

    async def _bring_up(self, guest: AsyncGuest, order: Order) -> None:
        """Wait for what would be waited for before it is frozen, and do what would be done then."""
        until, seen = parse_guest_condition(order.until or "agent"), Sightings()
        async with guest.vm.within(order.patience, f"bring it to where a test begins ({until})", seen=seen):
            await meet(guest.vm, until, seen=seen)
            if order.run:
                await guest.succeed(*order.run, timeout=order.patience)
            await _name(guest, order.hostname)

    def _have(self, vm: Vm) -> AsyncGuest:
        guest = AsyncGuest(vm)
        self.guests.append(guest)
        return guest

    def _have_detached(self, vm: Vm) -> AsyncGuest:
        self._stack.push_async_callback(self._end_or_keep, vm)
        return self._have(vm)

    async def _end_or_keep(self, vm: Vm) -> None:
        is_kept = self._is_failed and vm.is_alive
        if not is_kept and vm.is_alive:
            await vm.kill()
        await vm.close()
        if is_kept:
            self.kept.append(vm.name)
            return
        registry.remove(vm.name)

    def close(self, *, is_failed: bool) -> None:
        """Give all machines back; with ``--vm-keep-failed`` those of a failed test are left running."""
        self._is_failed = is_failed
        self._lab.loop.run(self._close())

    async def _close(self) -> None:
        await self._stack.aclose()
        await self._lab.ahead.drop(nodeid=self._nodeid)

    def look_ahead(self, nodeid: str, source: Blueprint | Template, words: dict[str, Any]) -> None:
        """Begin to make the machine that the test `nodeid` will ask for next, if that takes no more than a fork."""
        settings = self._lab.settings
        if not (settings.cold or settings.keep_failed):
            with suppress(KvmctlError):  # it is that test that will want to know
                self._lab.loop.run(self._look_ahead(nodeid, source, words))

    async def _look_ahead(self, nodeid: str, source: Blueprint | Template, words: dict[str, Any]) -> None:
        template, hostname = (source, "") if isinstance(source, Template) else self._find(source.changed(words))
        if template is not None and not (words and isinstance(source, Template)) and not template.record.plan.helpers:
            # What serves a machine beside its QEMU says nowhere whose it is, and would be this test's.
            await self._lab.ahead.begin(template, nodeid=nodeid, name=_name_for(nodeid), hostname=hostname)

    def _find(self, blueprint: Blueprint) -> tuple[Template | None, str]:
        order = self._lab.order(blueprint)
        return self._lab.find_template(order), order.hostname

    @property
    def not_mine(self) -> list[str]:
        """The names of machines that are none of this test's leaks: those to be kept, and the next test's."""
        return [*self.kept, *([self._lab.ahead.name] if self._lab.ahead.name else [])]

    def evidence(self, *, directory: str) -> list[Evidence]:
        """What is known of the machines, and kept in `directory` where one is given."""
        return self._lab.loop.run(self._gather(directory))

    async def _gather(self, directory: str) -> list[Evidence]:
        return [*self._failures, *[await gather(guest.vm, directory=directory) for guest in self.guests]]

    def left_behind(self) -> list[str]:
        """Files of machines that were given back."""
        roots = store.find_roots()
        gone = [name for name in self._names if name not in self.kept]
        paths = [roots.machine(name, ephemeral=ephemeral) for name in gone for ephemeral in (True, False)]
        places = sorted({place for item in paths for place in (item.run, item.state)})
        return [place for place in places if os.path.lexists(place)]


def _name_for(nodeid: str) -> str:
    """A name for a machine of the test."""
    called = re.sub(r"[^A-Za-z0-9]+", "-", nodeid.rpartition("::")[2]).strip("-")[:_NAME_MAX] or "test"
    return f"{called}-{secrets.token_hex(3)}"


async def _name(guest: AsyncGuest, hostname: str) -> None:
    if hostname:
        await guest.succeed(f"hostname {shlex.quote(hostname)}")


def _cold_plan(plan: Plan, paths: MachinePaths) -> Plan:
    """`plan` as a template's is made, but with memory of its own: a file is what it takes to freeze it."""
    layered = template_plan(plan, machine=paths, template=TemplatePaths(plan.name, paths.state), generation_id=False)
    (memory,) = filter(_is_memory, plan.options)
    return layered._replace(options=tuple(memory if _is_memory(option) else option for option in layered.options))


def _is_memory(option: Option) -> bool:
    return option.form is Form.JSON and option.flag == "object" and option.body.get("id") == _MEMORY
