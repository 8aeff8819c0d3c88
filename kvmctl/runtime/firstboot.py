"""The files that tell a guest what to be: made when the machine starts, and kept for as long as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Final

from kvmctl import files
from kvmctl.errors import HostError, Problem, SpecError
from kvmctl.guest import cloudinit, systemd
from kvmctl.guest.given import HIDDEN, Given
from kvmctl.plan.guest import FirstBoot, TellGuest
from kvmctl.runtime import deferred
from kvmctl.runtime.made import Made
from kvmctl.runtime.sources import Gathered, gather
from kvmctl.runtime.sshkeys import Keys, are_made, load_keys

_SEED: Final = "seed.iso"
_DIGEST: Final = "digest"
_LATER: Final = "(made at the first start)"
_UNMADE: Final = Keys(client_public=f"ssh-ed25519 {_LATER}", host_private=HIDDEN, host_public=f"ssh-ed25519 {_LATER}")


def tell_guest(step: TellGuest, made: Made) -> None:
    """Make what is not there or not current any more; what was not there before is on record in `made`.

    Raises SpecError with everything that is wrong with the files the spec names, and HostError for a variable that is
    not set: a guest that was told before keeps what it was told then, because a secret is needed once.
    """
    found = _gather(step)
    if found.unset and _is_told(step):
        return
    _require(found)
    contents = _render(step.first_boot, found, load_keys(step.ssh))
    digest = _digest(contents)
    if not (_is_told(step) and _read_digest(step) == digest):
        _refuse(step, list(_content_problems(step.first_boot, found, contents)))
        _write(step, contents, digest, made)


def check_guest(step: TellGuest) -> None:
    """Raises SpecError and HostError as `tell_guest` would the first time; makes nothing."""
    found = _gather(step)
    contents = _render(step.first_boot, found, _UNMADE)
    _refuse(step, list(_content_problems(step.first_boot, found, contents)))
    _require(found)


def told(step: TellGuest) -> dict[str, str | None]:
    """Digests of what is read for it from outside the spec, or is secret there, by the spec's keys.

    None for a variable that is not set. Raises SpecError.
    """
    found = _gather(step)
    digests: dict[str, str | None] = {}
    for source in step.first_boot.sources():
        if source.kind != "text":
            digests[source.key] = None if source in found.unset else sha256(found.contents[source]).hexdigest()
    return digests


def shown(step: TellGuest) -> dict[str, bytes]:
    """What the guest will be given, file by file, with its secrets hidden. Raises SpecError."""
    found = _gather(step, is_shown=True)
    keys = replace(load_keys(step.ssh), host_private=HIDDEN) if are_made(step.ssh) else _UNMADE
    contents = _render(step.first_boot, found, keys)
    _refuse(step, list(_content_problems(step.first_boot, found, contents)))
    return contents


def _gather(step: TellGuest, *, is_shown: bool = False) -> Gathered:
    """Everything the recipe names. Raises SpecError, with what is wrong inside the files that could be read as well."""
    found = gather(step.first_boot, spec=step.source, is_shown=is_shown)
    if found.problems:
        _refuse(step, [*found.problems, *_raw_problems(step.first_boot, found)])
    return found


def _render(recipe: FirstBoot, found: Gathered, keys: Keys) -> dict[str, bytes]:
    given = Given(found.contents, keys.client_public, keys.host_private, keys.host_public)
    return (cloudinit.seed_files if recipe.way == "nocloud" else systemd.credentials)(recipe, given)


def _refuse(step: TellGuest, problems: Sequence[Problem]) -> None:
    if problems:
        raise SpecError(step.source, tuple(problems))


def _require(found: Gathered) -> None:
    for source in found.unset:
        raise HostError(
            f"{source.key}: the environment variable {source.value!r} is not set", hint=f"export {source.value}=…"
        )


def _content_problems(recipe: FirstBoot, found: Gathered, contents: Mapping[str, bytes]) -> Iterator[Problem]:
    """What is wrong with what the files say, rather than with getting at them."""
    yield from _raw_problems(recipe, found)
    size = sum(map(len, contents.values()))
    if recipe.way == "credentials" and size > systemd.MOST:
        yield Problem(
            "guest",
            f"comes to {size >> 10}KiB, and systemd takes a MiB of credentials in all",
            allowed="smaller files, or a guest with cloud-init and via = 'nocloud'",
        )


def _raw_problems(recipe: FirstBoot, found: Gathered) -> Iterator[Problem]:
    raw = ((recipe.user_data, True), (recipe.network_config, False), (recipe.vendor_data, True))
    for source, needs_header in raw:
        if source is None or source not in found.contents:
            continue
        if problem := _raw_problem(found.contents[source], needs_header=needs_header):
            yield Problem(source.key, problem, f"'{source.value}'")


def _raw_problem(data: bytes, *, needs_header: bool) -> str:
    if needs_header and data.startswith(b"\x1f\x8b"):
        return ""  # cloud-init unpacks it
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text (byte {error.start})"
    return deferred.cloud_config_problem(text, needs_header=needs_header)


def _digest(contents: Mapping[str, bytes]) -> str:
    digest = sha256()
    for name, data in contents.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _is_told(step: TellGuest) -> bool:
    """Whether all of the files are there, whatever they say."""
    recipe = step.first_boot
    names = (_SEED,) if recipe.way == "nocloud" else recipe.credentials
    return all(os.path.exists(os.path.join(step.directory, name)) for name in (*names, _DIGEST))


def _read_digest(step: TellGuest) -> str:
    try:
        with open(os.path.join(step.directory, _DIGEST), encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise files.cannot("read", step.directory, error) from error


def _write(step: TellGuest, contents: Mapping[str, bytes], digest: str, made: Made) -> None:
    """The digest comes last: whatever ends us in between, the next start makes it all anew."""
    made.directory(step.directory)
    wanted = {_SEED: deferred.seed_image(contents)} if step.first_boot.way == "nocloud" else dict(contents)
    wanted[_DIGEST] = digest.encode()
    for name in {*os.listdir(step.directory)} - {*wanted}:
        _unlink(os.path.join(step.directory, name))  # of the other way, or cut off: there may be secrets in it
    for name, data in wanted.items():
        path = os.path.join(step.directory, name)
        if not os.path.exists(path):
            made.file(path)
        files.write_atomic(path, data)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
