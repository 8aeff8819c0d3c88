"""Where specs are and what is remembered beside them. Never what is in one: no pydantic here."""

from __future__ import annotations

import os

from kvmctl.plan.paths import BUILTIN_SPECS, MachinePaths, Roots
from kvmctl.runtime import files, listing, store


def find_spec(reference: str, *, roots: Roots | None = None) -> str:
    """The file of a spec by its path, its machine's name, or the name of a built-in one. Raises NotFound.

    What has a slash or ends in ``.toml`` or ``.json`` is a path.
    """
    if is_path(reference):
        return os.path.abspath(reference)
    roots = roots or store.find_roots()
    defined = roots.spec(reference)
    if os.path.exists(defined):
        return defined
    if reference in BUILTIN_SPECS:
        return BUILTIN_SPECS[reference]
    raise listing.unknown(reference, listing.defined_names(roots) | set(BUILTIN_SPECS))


def is_path(reference: str) -> bool:
    """Whether `reference` means a file, and not a machine of that name."""
    return "/" in reference or reference.endswith((".toml", ".json"))


def read_pin(paths: MachinePaths) -> str | None:
    """The machine type that a defined machine was first started as; None before that."""
    try:
        with open(paths.machine_type, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.cannot("read", paths.machine_type, error) from error


def pin(paths: MachinePaths, machine_type: str, *, roots: Roots | None = None) -> None:
    """Remember what a defined machine was first started as: an alias means another type in every QEMU."""
    roots = roots or store.find_roots()
    if os.path.exists(roots.spec(paths.name)) and read_pin(paths) != machine_type:
        files.make_private_dir(paths.state)
        files.write_atomic(paths.machine_type, machine_type.encode())
