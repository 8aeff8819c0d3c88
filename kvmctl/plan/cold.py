"""The plan of a fork that boots: its own disks, and nothing of the memory that its template was frozen with. Pure.

Apart from `kvmctl.plan.fork`, which decides what a fork goes on from: here that is undone, for a fork whose power was
cut. What is not of the frozen memory stays: the disks' overlays, the kernel in the form that the template keeps it in
(see `kvmctl.guest.reload`), sockets, addresses, and the lock on the template, whose disks are below the fork's.
"""

from __future__ import annotations

from typing import Final

from kvmctl.plan.fork import DEVICE_STATE
from kvmctl.plan.model import FdSource, Listen, OpenFile, Pair, Plan, QmpStep
from kvmctl.plan.option import Option, jsonopt
from kvmctl.plan.paths import RESIDENT, MachinePaths

_OF_FILES: Final = frozenset({"mem-path", "readonly", "rom"})
"""What memory has that is mapped from a file."""
_PLUGGED: Final = {"netdev_add": "netdev", "device_add": "device"}
"""The options that say what a monitor's commands do."""


def cold_plan(plan: Plan, paths: MachinePaths) -> Plan:
    """`plan`, of the machine with these `paths`, for a boot; of a machine that boots in any case, the plan itself."""
    if not any(option.flag == "incoming" for option in plan.options):
        return plan
    plugged = (_option(step) for step in plan.after_renewal)
    return plan._replace(
        options=(*(_cold(option, plan) for option in plan.options if option.flag != "incoming"), *plugged),
        fds=tuple(_source(source, paths) for source in plan.fds if not _is_state(source)),
        before_run=tuple(step for step in plan.before_run if not step.execute.startswith("migrate")),
        after_renewal=(),
    )


def _cold(option: Option, plan: Plan) -> Option:
    match option.flag:
        case "object" if option.body.get("id") == "ram":
            own = {key: value for key, value in option.body.items() if key not in _OF_FILES}
            own |= {"qom-type": "memory-backend-ram", "prealloc": bool(plan.spec["memory"]["prealloc"])}
            return option._replace(body=own)
        case "chardev" if option.body.get("id") == RESIDENT:
            # Whoever made the fork is no nearer to its guest than others, once that has booted.
            return option._replace(body={**option.body, "server": True, "wait": False})
        case _:
            return option


def _option(step: QmpStep) -> Option:
    """What a fork was plugged as an option: there is no frozen guest now that has never seen it."""
    return jsonopt(_PLUGGED[step.execute], dict(step.arguments), why=step.why)


def _source(source: FdSource, paths: MachinePaths) -> FdSource:
    return Listen(RESIDENT, paths.resident) if source == Pair(RESIDENT) else source


def _is_state(source: FdSource) -> bool:
    return isinstance(source, OpenFile) and source.fd == DEVICE_STATE
