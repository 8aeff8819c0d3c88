"""What is known of a template, and whether it still is what it was: what a fork looks at before it is started.

No asyncio, no compiler and nothing else that is slow to import: a ``kvmctl fork`` has to have done with this before
there is a QEMU to wait for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from kvmctl import files
from kvmctl.errors import KvmctlError, TemplateDamaged, TemplateMisfit
from kvmctl.host.binary import identify
from kvmctl.plan.captive import Tie
from kvmctl.plan.model import Plan
from kvmctl.plan.template_paths import TemplatePaths
from kvmctl.runtime import deferred

FORMAT: Final = 3
"""Raised when an older kvmctl could not use a template any more."""
_CPUINFO: Final = "/proc/cpuinfo"
_CPU_WORDS: Final = ("model name", "flags")


class Source(NamedTuple):
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
    told: Mapping[str, str | None]
    """Digests of what the guest was told at its first boot, where that is not in the spec itself, by the spec's keys.
    None for what can't be told now: a variable that is not set."""


class Record(NamedTuple):
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
        parts = {"source": self.source._asdict(), "tie": self.tie._asdict(), "plan": self.plan.dumps()}
        return json.dumps(self._asdict() | parts)

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


def load_record(paths: TemplatePaths) -> Record:
    """What is known of a template. Raises NotFound, TemplateDamaged."""
    try:
        with open(paths.record, encoding="utf-8") as file:
            return Record.loads(file.read())
    except FileNotFoundError:
        if os.path.isdir(paths.directory):
            raise _damaged(paths, f"{paths.record!r} is missing") from None
        raise deferred.unknown_template(paths) from None
    except OSError as error:
        raise files.cannot("read", paths.record, error) from error
    except ValueError as error:
        raise _damaged(paths, f"{paths.record!r}: {error}") from error


def check(paths: TemplatePaths, record: Record) -> None:
    """See that a template is whole and fits this host: a look at stamps, and at the files of those that have changed.

    Raises TemplateMisfit for another QEMU or CPU or changed images, TemplateDamaged for files that are not what they
    were.
    """
    _check_host(paths, record)
    watched = {os.path.join(paths.directory, name): digest for name, digest in record.files.items()}
    inputs = record.source.inputs
    stamps = {path: _stamp(paths, record, path) for path in (*watched, *inputs)}
    verified = _verified(paths)
    if stamps == verified:
        return
    for path, digest in (*watched.items(), *inputs.items()):
        if stamps[path] != verified.get(path) and _digest(path) != digest:
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
        return stamp(path)
    except FileNotFoundError:
        raise _changed(paths, record, path, how="is missing") from None
    except OSError as error:
        raise files.cannot("look at", path, error) from error


def _verified(paths: TemplatePaths) -> dict[str, object]:
    """The stamps that all files had when they were last found to be right; none where that can't be told."""
    try:
        with open(paths.verified, encoding="utf-8") as file:
            verified = json.load(file)
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def _digest(path: str) -> str:
    try:
        return deferred.digest(path)
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
    return {path: digest for path, digest in record.source.inputs.items() if verified.get(path) == _find_stamp(path)}


def _find_stamp(path: str) -> list[int] | None:
    try:
        return stamp(path)
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


def stamp(path: str) -> list[int]:
    """What changes when a file is written, replaced, or given to somebody else. Raises OSError."""
    status = os.stat(path)
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
