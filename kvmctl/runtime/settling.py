"""Letting a guest come to rest before it is frozen: what it has begun and not done by then, every fork does again.

A kernel has work that it puts off, by a second and more, after the last line on the console is long printed: addresses
of a network card, watches of its link, what init starts in the background. Under TCG that is new code in every fork.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from kvmctl.guest.addresses import has_tentative
from kvmctl.guest.resident import Resident
from kvmctl.guest.shell import SHELL
from kvmctl.guest.turn import Turn
from kvmctl.runtime.vm import Vm

_LOOKS: Final = 8
"""A guest has come to rest when so many looks have found next to nothing."""
_LOOK_SECONDS: Final = 0.25
_SHARE: Final = 0.05
"""Next to nothing: this part of each of its CPUs. A guest under TCG whose timers tick takes a third of that."""
_WORK: Final = 0.025
"""And at no look this part of a CPU more than at another, which is the least that work takes that is done once."""
_PATIENCE: Final = 20.0
"""Seconds after which a guest that does not come to rest is frozen as it is: it may be there to be busy."""
_AFTER_SECONDS: Final = 0.1
"""What a kernel has to clean up behind a command takes a few of its ticks; each second it has its own again."""
_CPU_CLOCK: Final = 2
"""What a process has had of all CPUs, to the nanosecond: linux/posix-timers.h, ``CPUCLOCK_SCHED``."""


async def settle(vm: Vm, turn: Turn) -> None:
    """Wait until the guest does next to nothing and waits for no address, but not for long.

    One that has ended is nothing to wait for. Raises DeadlineExceeded where the agent does not answer.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + _PATIENCE
    with suppress(OSError):
        while loop.time() < end:
            turn.give_back()
            await _quiet_down(vm, end)
            if not await has_tentative(turn):
                break
    turn.give_back()


async def _quiet_down(vm: Vm, end: float) -> None:
    """Wait until the guest does next to nothing, or for the `end` by the loop's clock. Raises OSError: it has ended."""
    loop = asyncio.get_running_loop()
    shares: deque[float] = deque(maxlen=_LOOKS)
    before, used_before = loop.time(), _used(vm.pid)
    while before < end and not _is_rest(shares, cpus=vm.plan.cpus):
        await asyncio.sleep(_LOOK_SECONDS)  # that nothing happens is no event
        now, used = loop.time(), _used(vm.pid)
        shares.append((used - used_before) / (now - before))
        before, used_before = now, used


def _is_rest(shares: Sequence[float], *, cpus: int) -> bool:
    """Whether the parts of a CPU that a guest has had at its last looks are next to nothing."""
    if len(shares) < _LOOKS:
        return False
    return sum(shares) < _SHARE * cpus * _LOOKS and max(shares) - min(shares) < _WORK


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
