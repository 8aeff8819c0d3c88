"""Letting a guest come to rest before it is frozen: what it has begun and not done by then, every fork does again.

A kernel has work that it puts off, by a second and more, after the last line on the console is long printed: addresses
of a network card, watches of its link, what init starts in the background. Under TCG that is new code in every fork.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

import psutil

from kvmctl.runtime.vm import Vm

_REST_SECONDS: Final = 2.0
"""A guest has come to rest when it has done next to nothing for so long."""
_LOOK_SECONDS: Final = 0.25
_SHARE: Final = 0.05
"""Next to nothing: this part of each of its CPUs. A guest under TCG whose timers tick takes a third of that."""
_PATIENCE: Final = 20.0
"""Seconds after which a guest that does not come to rest is frozen as it is: it may be there to be busy."""


async def settle(vm: Vm) -> None:
    """Wait until the guest does next to nothing, but not for long. One that has ended is nothing to wait for."""
    looks: deque[tuple[float, float]] = deque()
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(vm.pid)
        while loop.time() < end:
            looks.append((loop.time(), _used(process)))
            while len(looks) > 1 and looks[-1][0] - looks[1][0] >= _REST_SECONDS:
                looks.popleft()
            seconds, used = (last - first for first, last in zip(looks[0], looks[-1], strict=True))
            if seconds >= _REST_SECONDS and used < _SHARE * vm.plan.cpus * seconds:
                return
            await asyncio.sleep(_LOOK_SECONDS)  # that nothing happens is no event


def _used(process: psutil.Process) -> float:
    """Seconds of CPU time that QEMU has had."""
    times = process.cpu_times()
    return float(times.user + times.system)
