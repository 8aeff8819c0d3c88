"""Templates as they lie on disk: frozen machines, each in a directory of its own, whole or not there at all."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from kvmctl import files
from kvmctl.errors import Busy, KvmctlError, NotFound, StateError, TemplateMisfit
from kvmctl.plan.paths import Roots, is_name
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import store, unfinished
from kvmctl.runtime.attach import read_plan
from kvmctl.runtime.template_record import Record, check, load_record


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """One template as it is listed; `problem` says why it can't be used, `in_use` whether forks of it live."""

    name: str
    directory: str
    size: int
    """Bytes on disk."""
    in_use: bool
    record: Record | None = None
    problem: str = ""


def unknown(paths: TemplatePaths) -> NotFound:
    """The error for a template that is not there."""
    near = difflib.get_close_matches(paths.name, _names_in(os.path.dirname(paths.directory)), n=3)
    hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "See them all with: kvmctl template list"
    return NotFound(f"there is no template {paths.name!r}", hint=hint)


def template_names(*, roots: Roots | None = None) -> list[str]:
    """The names of all templates, sorted. Touches nothing: it answers the Tab key. Raises StateError."""
    return _names_in((roots or store.find_roots()).templates)


def _names_in(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if is_name(name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.cannot("read", directory, error) from error


def list_templates(*, roots: Roots | None = None) -> list[TemplateInfo]:
    """All templates, those that can't be used with the reason. Clears away what makers that died have left."""
    roots = roots or store.find_roots()
    unfinished.sweep(roots)
    return [inspect(roots.template(name)) for name in _names_in(roots.templates)]


def inspect(paths: TemplatePaths) -> TemplateInfo:
    """One template as it is listed."""
    record, problem = None, ""
    try:
        record = load_record(paths)
        check(paths, record)
    except NotFound:
        raise
    except (StateError, TemplateMisfit) as error:
        problem = error.summary
    return TemplateInfo(
        paths.name, paths.directory, _size(paths.directory), unfinished.is_in_use(paths), record, problem
    )


def find_template(name: str, *, roots: Roots | None = None) -> TemplateInfo:
    """One template. Raises NotFound."""
    roots = roots or store.find_roots()
    return inspect(roots.template(name))


def remove_template(name: str, *, roots: Roots | None = None) -> None:
    """Remove a template. Raises NotFound, and Busy while forks of it live."""
    roots = roots or store.find_roots()
    paths = roots.template(name)
    if not os.path.isdir(paths.directory):
        raise unknown(paths)
    try:
        unfinished.remove(paths)
    except Busy as error:
        error.detail = ", ".join(_forks_of(name, roots))
        raise


def _forks_of(name: str, roots: Roots) -> Iterator[str]:
    """The machines that are forks of the template, as far as their plans can be read."""
    for machine in store.run_names(roots):
        with suppress(KvmctlError):
            paths = roots.machine(machine)
            if store.is_alive(paths) and read_plan(paths).template == name:
                yield machine


def collect_templates(*, roots: Roots | None = None) -> list[TemplateInfo]:
    """Remove every template that can't be used any more and has no forks; what was removed."""
    useless = [info for info in list_templates(roots=roots) if info.problem and not info.in_use]
    for info in useless:
        remove_template(info.name, roots=roots)
    return useless


def _size(directory: str) -> int:
    return sum(_blocks(os.path.join(folder, name)) for folder, _, names in os.walk(directory) for name in names)


def _blocks(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def used_files(paths: TemplatePaths) -> Iterator[str]:
    """The template's own files that are digested, by their paths from its directory."""
    for folder, _, names in os.walk(paths.directory):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if path not in {paths.lock, paths.record, paths.verified}:
                yield os.path.relpath(path, paths.directory)
