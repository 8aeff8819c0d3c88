"""The names that are taken, for who needs nothing else of the machines: the Tab key, and a fork that is to have one."""

from __future__ import annotations

from kvmctl.plan.paths import Roots
from kvmctl.runtime import store
from kvmctl.runtime.definitions import defined_names


def machine_names(roots: Roots | None = None) -> list[str]:
    """The names of all machines, whatever they are doing, sorted. Touches nothing: it answers the Tab key."""
    roots = roots or store.find_roots()
    return sorted(defined_names(roots) | set(store.run_names(roots)))
