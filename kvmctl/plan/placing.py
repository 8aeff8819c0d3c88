"""Giving a fork its name, its identity and its directories: all that is left to be decided when it is made. Pure.

Apart from `kvmctl.plan.fork`, which is imported when templates are made, because every ``kvmctl fork`` waits for this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from kvmctl.plan.model import Plan
from kvmctl.plan.option import Option, text
from kvmctl.plan.paths import MachinePaths

PLACE: Final = MachinePaths("fork", "/fork/run", "/fork/state")
"""Stands for a fork's own directories in the plan that all forks of a template have in common."""

DISKS: Final = "/fork/disks"
"""Stands for the directory of what a fork writes of its disks."""

T = TypeVar("T")


def place(plan: Plan, paths: MachinePaths, *, uuid: str) -> Plan:
    """The plan of the forks of a template for one fork: its name, its directories, its UUID.

    Cards of its own have no addresses yet: see `kvmctl.plan.card.address`.
    """
    plan = moved(plan, {PLACE.run: paths.run, PLACE.state: paths.state, DISKS: paths.disks})
    options = tuple(_identified(option, paths.name, uuid) for option in plan.options)
    return plan._replace(name=paths.name, uuid=uuid, options=options)


def _identified(option: Option, name: str, uuid: str) -> Option:
    match option.flag:
        case "name":
            return option._replace(body={**option.body, "guest": name}, why="default: the fork's own")
        case "uuid":
            return text("uuid", uuid, why="default: the fork's own")
        case _:
            return option


def moved(plan: Plan, directories: Mapping[str, str]) -> Plan:
    """`plan` with every path below one of `directories` below the other; ``unix:`` may stand before it."""

    def move(word: str) -> str:
        for old, new in directories.items():
            before, found, after = word.partition(old)
            if found and before in {"", "unix:"} and after[:1] in {"", "/"}:
                return f"{before}{new}{after}"
        return word

    return _map_words(plan._replace(spec={}), move)._replace(spec=plan.spec)


def _map_words(value: T, change: Callable[[str], str]) -> T:
    """`value` with every string in it changed, however deep."""
    found: Any = value
    match found:
        case str():
            found = change(found)
        case _ if names := getattr(found, "_fields", None):
            found = found._replace(**{name: _map_words(getattr(found, name), change) for name in names})
        case tuple() | list():
            found = type(found)(_map_words(item, change) for item in found)
        case Mapping():
            found = {key: _map_words(item, change) for key, item in found.items()}
    mapped: T = found
    return mapped
