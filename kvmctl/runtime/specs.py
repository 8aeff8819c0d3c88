"""Where specs are and what is remembered beside them. Never what is in one: no pydantic here."""

from __future__ import annotations

import os

from kvmctl import files
from kvmctl.plan import preset
from kvmctl.plan.paths import BUILTIN_SPECS, ImagePaths, MachinePaths, Roots, is_name
from kvmctl.runtime import deferred, definitions, store
from kvmctl.runtime.made import Made


def find_spec(reference: str, *, roots: Roots | None = None) -> str:
    """The file of a spec by its path, its machine's name, or the name of a built-in one. Raises NotFound.

    What has a slash or ends in ``.toml`` or ``.json`` is a path. The name of an image stands for a machine of it, whose
    spec is no file but ``image:NAME``, and can be called that too.
    """
    if is_path(reference):
        return os.path.abspath(reference)
    roots = roots or store.find_roots()
    if preset.find_image(reference) is None and definitions.is_defined(reference, roots):
        return roots.spec(reference)
    if reference in BUILTIN_SPECS:
        return BUILTIN_SPECS[reference]
    image = preset.find_image(reference)
    if image is not None or is_stored(reference, roots) or reference in deferred.image_names(roots):
        return preset.spec_of_image(image or reference)
    raise deferred.no_spec(reference, roots)


def is_path(reference: str) -> bool:
    """Whether `reference` means a file, and not a machine of that name."""
    return "/" in reference or reference.endswith((".toml", ".json"))


def find_name(reference: str) -> str | None:
    """The machine's name, where that is what `reference` is; None for a path or ``image:NAME``."""
    return None if is_path(reference) or preset.find_image(reference) is not None else reference


def is_stored(name: str, roots: Roots) -> bool:
    """Whether the store has an image of that name."""
    return is_name(name) and os.path.exists(ImagePaths(roots.images).record(name))


def read_text(spec: str) -> str:
    """The text of what `find_spec` found. Raises OSError, UnicodeDecodeError."""
    image = preset.find_image(spec)
    if image is not None:
        return preset.image_spec_text(image)
    with open(spec, encoding="utf-8") as file:
        return file.read()


def read_pin(paths: MachinePaths) -> str | None:
    """The machine type that a defined machine was first started as; None before that."""
    try:
        with open(paths.machine_type, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise files.cannot("read", paths.machine_type, error) from error


def pin(paths: MachinePaths, machine_type: str, made: Made) -> None:
    """Remember what a defined machine was first started as: an alias means another type in every QEMU."""
    before = read_pin(paths)
    if before == machine_type:
        return
    made.directory(paths.state)
    if before is None:
        made.file(paths.machine_type)
    else:
        made.replaced(paths.machine_type, text=before)
    files.write_atomic(paths.machine_type, machine_type.encode())
