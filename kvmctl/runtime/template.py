"""Templates as they lie on disk: frozen machines, each in a directory of its own, whole or not there at all.

No pydantic and no compiler here: a fork is made of what was decided when its template was.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from kvmctl.errors import Busy, KvmctlError, NotFound, StateError, TemplateDamaged, TemplateMisfit
from kvmctl.host.identity import identify
from kvmctl.plan.captive import Tie
from kvmctl.plan.model import Plan
from kvmctl.plan.paths import Roots, is_name
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import files, frozen, store, unfinished
from kvmctl.runtime.attach import read_plan

FORMAT: Final = 2
"""Raised when an older kvmctl could not use a template any more."""
_CPUINFO: Final = "/proc/cpuinfo"
_CPU_WORDS: Final = ("model name", "flags")


@dataclass(frozen=True, slots=True)
class Source:
    """What a template was made of; made again of the same, it is the same template."""

    spec: Mapping[str, Any]
    """With its defaults, as JSON values."""
    inputs: Mapping[str, str]
    """Digests of the images and kernels that the spec names, by their paths."""
    qemu: str
    """Path of the binary."""
    qemu_identity: str | None
    qemu_version: str
    machine_type: str
    cpu: str
    """The host's CPU, where the guest has seen it."""
    until: str
    """What was waited for before it was frozen."""
    commands: tuple[str, ...]
    """What was run in the guest before that."""


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a template."""

    source: Source
    plan: Plan
    """What its forks have in common; see `kvmctl.plan.fork`."""
    tie: Tie
    renew: tuple[str, ...] | None
    """The command in the guest that gives a fork its own random numbers and time; None where there is none."""
    files: Mapping[str, str]
    """Digests of the template's own files, by their paths from its directory."""
    keys: Mapping[str, str]
    """The spec's key of each input."""
    created: float
    """Seconds since the epoch."""
    warnings: tuple[str, ...] = ()
    """What its machine's plan warned of."""
    is_resident: bool = False
    """That command was run before it was frozen, and waits: see `kvmctl.guest.resident`."""
    format: int = FORMAT

    def dumps(self) -> str:
        """The record as JSON text; `loads` reads it back."""
        record = {item.name: getattr(self, item.name) for item in fields(self)}
        return json.dumps(record | {"source": asdict(self.source), "tie": asdict(self.tie), "plan": self.plan.dumps()})

    @classmethod
    def loads(cls, text: str) -> Record:
        """The record that `dumps` wrote. Raises ValueError for anything else."""
        record = json.loads(text)
        try:
            if record["format"] != FORMAT:
                message = f"format {record['format']}, and this kvmctl reads format {FORMAT}"
                raise ValueError(message)
            source = record["source"] | {"commands": tuple(record["source"]["commands"])}
            known = {"source": Source(**source), "tie": Tie(**record["tie"]), "plan": Plan.loads(record["plan"])}
            renew = record["renew"] and tuple(record["renew"])
            return cls(**{**record, **known, "renew": renew, "warnings": tuple(record["warnings"])})
        except (KeyError, TypeError) as error:
            message = f"not a template's record: {error}"
            raise ValueError(message) from error


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


def load_record(paths: TemplatePaths) -> Record:
    """What is known of a template. Raises NotFound, TemplateDamaged."""
    try:
        with open(paths.record, encoding="utf-8") as file:
            return Record.loads(file.read())
    except FileNotFoundError:
        if os.path.isdir(paths.directory):
            raise _damaged(paths, f"{paths.record!r} is missing") from None
        raise unknown(paths) from None
    except OSError as error:
        raise files.cannot("read", paths.record, error) from error
    except ValueError as error:
        raise _damaged(paths, f"{paths.record!r}: {error}") from error


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


def check(paths: TemplatePaths, record: Record) -> None:
    """See that a template is whole and fits this host: a look at stamps, unless one of them has changed.

    Raises TemplateMisfit for another QEMU or CPU or changed images, TemplateDamaged for files that are not what they
    were.
    """
    _check_host(paths, record)
    watched = {os.path.join(paths.directory, name): digest for name, digest in record.files.items()}
    inputs = record.source.inputs
    stamps = {path: _stamp(paths, record, path) for path in (*watched, *inputs)}
    if stamps == _verified(paths):
        return
    for path, digest in (*watched.items(), *inputs.items()):
        if _digest(path) != digest:
            raise _changed(paths, record, path)
    files.write_atomic(paths.verified, json.dumps(stamps).encode())


def _check_host(paths: TemplatePaths, record: Record) -> None:
    source = record.source
    if not os.access(source.qemu, os.X_OK):
        raise _misfit(paths, f"the QEMU that made it, {source.qemu!r}, is gone")
    if identify(source.qemu, env=os.environ) != source.qemu_identity:
        raise _misfit(paths, f"{source.qemu!r} is another QEMU than the {source.qemu_version} that made it")
    if source.cpu != host_cpu(record.plan.accel):
        raise _misfit(paths, "this host's CPU is another one than its guest has seen")


def host_cpu(accel: str) -> str:
    """The host's CPU as far as a guest gets to see it: under KVM, its model and flags."""
    if accel != "kvm":
        return ""
    with open(_CPUINFO, encoding="utf-8") as file:
        first = file.read().partition("\n\n")[0]
    return "\n".join(line for line in first.splitlines() if line.startswith(_CPU_WORDS))


def _stamp(paths: TemplatePaths, record: Record, path: str) -> list[int]:
    try:
        return frozen.stamp(path)
    except FileNotFoundError:
        raise _changed(paths, record, path, how="is missing") from None
    except OSError as error:
        raise files.cannot("look at", path, error) from error


def _verified(paths: TemplatePaths) -> object:
    """The stamps that all files had when they were last found to be right."""
    try:
        with open(paths.verified, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def _digest(path: str) -> str:
    try:
        return frozen.digest(path)
    except OSError as error:
        raise files.cannot("read", path, error) from error


def _changed(
    paths: TemplatePaths, record: Record, path: str, *, how: str = "is not what it was when the template was made"
) -> KvmctlError:
    if path in record.source.inputs:
        return _misfit(paths, f"{record.keys.get(path, 'an input')}: {path!r} {how}")
    return _damaged(paths, f"{path!r} {how}")


def verified_inputs(paths: TemplatePaths) -> dict[str, str]:
    """The digests of what a template was made of, as far as nothing has been touched since. Raises NotFound."""
    record, verified = load_record(paths), _verified(paths)
    if not isinstance(verified, dict):
        return {}
    return {path: digest for path, digest in record.source.inputs.items() if verified.get(path) == _find_stamp(path)}


def _find_stamp(path: str) -> list[int] | None:
    try:
        return frozen.stamp(path)
    except OSError:
        return None


def _misfit(paths: TemplatePaths, reason: str) -> TemplateMisfit:
    return TemplateMisfit(
        f"template {paths.name!r} can't be used: {reason}",
        hint=f"Make it anew: kvmctl template create {paths.name} --from SPEC --refresh",
    )


def _damaged(paths: TemplatePaths, reason: str) -> TemplateDamaged:
    return TemplateDamaged(
        f"template {paths.name!r} is damaged: {reason}",
        hint=f"Make it anew: kvmctl template create {paths.name} --from SPEC --refresh",
    )


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
