"""Which machines are defined: those whose spec is there; and of which something is kept. Their files are looked for,
never into."""

from __future__ import annotations

import os

from kvmctl import files
from kvmctl.plan.paths import Roots, is_name


def is_defined(name: str, roots: Roots) -> bool:
    """Whether machine `name` has a spec. Raises StateError where that can't be told, NotFound for what is no name."""
    path = roots.spec(name)
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise files.cannot("read", path, error) from error
    return True


def defined_names(roots: Roots) -> set[str]:
    """The names of the machines that have a spec. Raises StateError."""
    try:
        return {name.removesuffix(".toml") for name in os.listdir(roots.machines) if name.endswith(".toml")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise files.cannot("read", roots.machines, error) from error


def state_names(roots: Roots) -> set[str]:
    """The names of machines of which something is kept from run to run, were it the history of one that is gone."""
    try:
        return {name for name in os.listdir(roots.machine_states) if is_name(name)}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise files.cannot("read", roots.machine_states, error) from error
