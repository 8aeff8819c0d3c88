"""The machine of the next test, forked while one runs: a test mostly waits for one core, and there are others.

At most one at a time, and captive like all others: nothing of it outlives the run, however that ends.
"""

from __future__ import annotations

import asyncio

from kvmctl.errors import KvmctlError
from kvmctl.runtime.fork import Fork, Template


class Ahead:
    """A fork that is made before it is asked for. To be used on the loop of the machines only."""

    def __init__(self) -> None:
        self.name = ""
        """Of the machine that is made or waits; empty where there is none."""
        self._nodeid = ""
        self._template = self._hostname = ""
        self._making: asyncio.Task[Fork] | None = None

    async def begin(self, template: Template, *, nodeid: str, name: str, hostname: str) -> None:
        """Begin to make the machine of the test `nodeid`; what was made for another is given back."""
        await self.drop()
        self.name, self._nodeid, self._template, self._hostname = name, nodeid, template.name, hostname
        self._making = asyncio.create_task(template.fork(name=name, hostname=hostname))

    async def take(self, template: Template, *, nodeid: str, hostname: str) -> Fork | None:
        """The machine that was made for the test `nodeid`; None where there is none, or another one is wanted."""
        if self._nodeid != nodeid:
            return None
        if (self._template, self._hostname) != (template.name, hostname):
            await self.drop()
            return None
        fork = await self._forget()
        if fork is None or fork.is_alive:
            return fork
        await fork.dispose()
        return None

    async def drop(self, *, nodeid: str | None = None) -> None:
        """Give back what nobody has asked for; with `nodeid`, only if it was made for that test."""
        if nodeid not in {None, self._nodeid}:
            return
        if self._making is not None:
            self._making.cancel()
        fork = await self._forget()
        if fork is not None:
            await fork.dispose()

    async def _forget(self) -> Fork | None:
        """The machine, once it is made; None where that failed: whoever needs one will be told why."""
        making, self._making = self._making, None
        if making is None:
            return None
        try:
            await asyncio.wait([making])
            return None if making.cancelled() else making.result()
        except KvmctlError:
            return None
        except asyncio.CancelledError:
            self._making = making  # to be dropped
            raise
        finally:
            if self._making is None:
                self.name = self._nodeid = ""
