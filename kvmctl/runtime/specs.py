"""Where specs are and what is remembered beside them. Never what is in one: no pydantic here."""

from __future__ import annotations

import os
from contextlib import ExitStack

from kvmctl.plan.paths import BUILTIN_SPECS, MachinePaths, Roots
from kvmctl.runtime import deferred, definitions, files, store


def find_spec(reference: str, *, roots: Roots | None = None) -> str:
    """The file of a spec by its path, its machine's name, or the name of a built-in one. Raises NotFound.

    What has a slash or ends in ``.toml`` or ``.json`` is a path.
    """
    if is_path(reference):
        return os.path.abspath(reference)
    roots = roots or store.find_roots()
    if definitions.is_defined(reference, roots):
        return roots.spec(reference)
    if reference in BUILTIN_SPECS:
        return BUILTIN_SPECS[reference]
    raise deferred.no_spec(reference, roots)


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


def pin(paths: MachinePaths, machine_type: str, undo: ExitStack) -> None:
    """Remember what a defined machine was first started as: an alias means another type in every QEMU."""
    before = read_pin(paths)
    if before == machine_type:
        return
    files.make_private_dir(paths.state, undo=undo)
    files.write_atomic(paths.machine_type, machine_type.encode())
    if before is None:
        undo.callback(os.unlink, paths.machine_type)
    else:
        undo.callback(files.write_atomic, paths.machine_type, before.encode())
