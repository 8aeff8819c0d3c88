"""Defined machines: a machine is defined by its spec being there, and by nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit

from kvmctl import files
from kvmctl.errors import AlreadyRunning, StateError
from kvmctl.plan.paths import Roots
from kvmctl.runtime import definitions, listing, store
from kvmctl.spec.load import absolute_text, format_of, parse, read_text


@dataclass(frozen=True, slots=True)
class Definition:
    """A spec as it was put under its machine's name; `replaced` says whether there was one before."""

    name: str
    path: str
    replaced: bool


def define(path: str, *, name: str | None = None, roots: Roots | None = None) -> Definition:
    """Keep the spec in the file `path`, its relative paths made absolute. Raises SpecError, NotFound, StateError."""
    text = read_text(path)
    written = format_of(path)
    base = os.path.dirname(os.path.abspath(path))
    machine = parse(text, source=path, base=base, format=written)
    return write_spec(machine.name if name is None else name, absolute_text(text, base, format=written), roots=roots)


def write_spec(name: str, text: str, *, roots: Roots | None = None) -> Definition:
    """Keep `text` as the spec of machine `name`, if it is a right one. Raises SpecError, StateError."""
    roots = roots or store.find_roots()
    path = roots.spec(name)
    parse(text, source=path, base=roots.machines)
    is_there = definitions.is_defined(name, roots)
    files.make_private_dir(roots.machines)
    files.write_atomic(path, text.encode())
    return Definition(name, path, replaced=is_there)


def read_spec(name: str, *, roots: Roots | None = None) -> str:
    """The text of a defined machine's spec. Raises NotFound."""
    roots = roots or store.find_roots()
    try:
        with open(roots.spec(name), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise listing.unknown(name, definitions.defined_names(roots)) from None
    except OSError as error:
        raise files.cannot("read", roots.spec(name), error) from error
    except UnicodeDecodeError as error:
        raise StateError(f"{roots.spec(name)!r} is not UTF-8: {error.reason} at byte {error.start}") from error


def create(name: str, fields: Mapping[str, Any], *, roots: Roots | None = None) -> Definition:
    """Define machine `name` from `fields`, a spec as plain values. Raises SpecError, AlreadyRunning, StateError."""
    roots = roots or store.find_roots()
    if definitions.is_defined(name, roots):
        raise AlreadyRunning(f"machine {name!r} is defined already", hint=f"Change it: kvmctl edit {name}")
    text = tomlkit.dumps({"name": name, **fields})
    parse(text, source=name, base=roots.machines)  # its problems are those of the fields: there is no file yet
    return write_spec(name, text, roots=roots)


def files_of(name: str, *, roots: Roots | None = None) -> list[str]:
    """Everything that `remove` would delete: the spec, the run directory, the state with the disks made for it.

    Raises NotFound, AlreadyRunning.
    """
    roots = roots or store.find_roots()
    listing.find_machine(name, roots=roots)
    paths = roots.machine(name)
    if store.is_alive(paths):
        raise store.already_running(paths)
    return [path for path in (roots.spec(name), paths.run, paths.state) if os.path.exists(path)]


def remove(name: str, *, roots: Roots | None = None) -> list[str]:
    """Delete a machine that does not run, and all that kvmctl made for it; what was deleted.

    Disks that the spec names by path are the user's and stay. Raises NotFound, AlreadyRunning.
    """
    roots = roots or store.find_roots()
    doomed = files_of(name, roots=roots)
    paths = roots.machine(name)
    claim = store.claim(paths, is_captive=False)  # nobody can start it meanwhile
    try:
        if os.path.exists(roots.spec(name)):
            os.unlink(roots.spec(name))
        files.remove_tree(paths.state)
        claim.forget()
    except OSError as error:
        raise files.cannot("remove", roots.spec(name), error) from error
    finally:
        claim.abandon()
    return doomed
