"""Letting a guest come to rest before it is frozen: what it has begun and not done by then, every fork does again.

A kernel has work that it puts off, by a second and more, after the last line on the console is long printed: addresses
of a network card, watches of its link, what init starts in the background. Under TCG that is new code in every fork.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from kvmctl.guest.resident import Resident
from kvmctl.guest.shell import SHELL
from kvmctl.runtime.vm import Vm

_REST_SECONDS: Final = 2.0
"""A guest has come to rest when it has done next to nothing for so long: IPv6 waits for as much between its steps."""
_LOOK_SECONDS: Final = 0.25
_SHARE: Final = 0.01
"""Next to nothing: this part of a CPU at every look, which is the least that such a piece of work takes under TCG."""
_TICKS: Final = 0.01
"""Besides, this part of each of the guest's CPUs: twice what their timers take under TCG."""
_PATIENCE: Final = 20.0
"""Seconds after which a guest that does not come to rest is frozen as it is: it may be there to be busy."""
_AFTER_SECONDS: Final = 0.1
"""What a kernel has to clean up behind a command takes a few of its ticks; each second it has its own again."""
_CPU_CLOCK: Final = 2
"""What a process has had of all CPUs, to the nanosecond: linux/posix-timers.h, ``CPUCLOCK_SCHED``."""


async def settle(vm: Vm) -> None:
    """Wait until the guest does next to nothing, but not for long. One that has ended is nothing to wait for."""
    loop = asyncio.get_running_loop()
    begin = rested = before = loop.time()
    with suppress(OSError):
        used_before = _used(vm.pid)
        while before < begin + _PATIENCE and before < rested + _REST_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)  # that nothing happens is no event
            now, used = loop.time(), _used(vm.pid)
            if used - used_before > (_SHARE + _TICKS * vm.plan.cpus) * (now - before):
                rested = now
            before, used_before = now, used


async def stir(resident: Resident) -> None:
    """Have a guest that rests do what it has put off until it is woken up, which each of its forks would do else.

    Raises AgentError where the program that waits in it does so no more.
    """
    await resident.run([SHELL, "-c", ":"])
    await asyncio.sleep(_AFTER_SECONDS)  # there is no event of its end


def _used(pid: int) -> float:
    """Seconds of CPU time that QEMU has had. Raises OSError when it has ended. See clock_getcpuclockid(3).

    What is otherwise told of a process is in ticks of 10 ms, which is as much as the work that is looked for.
    """
    return time.clock_gettime(~pid << 3 | _CPU_CLOCK)
