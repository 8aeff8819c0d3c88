"""What ties a QEMU to the process that starts it, so that the kernel ends one with the other. Pure."""

from __future__ import annotations

from typing import NamedTuple

from kvmctl.plan.model import Plan
from kvmctl.plan.option import keyval


class Tie(NamedTuple):
    """How a QEMU is tied here: by its own option, else by util-linux's ``setpriv``, where there is one."""

    by_qemu: bool
    setpriv: str | None


def tie(plan: Plan, how: Tie) -> Plan:
    """`plan` for a QEMU that the kernel kills when its launcher ends."""
    if how.by_qemu:
        option = keyval("run-with", exit_with_parent=True, why="default: the machine ends with the process it is for")
        return plan._replace(options=(*plan.options, option))
    if how.setpriv is None:
        return plan._replace(
            warnings=(*plan.warnings, "setpriv (util-linux) is missing: a killed launcher's QEMU is cleared away late"),
        )
    return plan._replace(wrapper=(*plan.wrapper, how.setpriv, "--pdeathsig", "KILL", "--"))
