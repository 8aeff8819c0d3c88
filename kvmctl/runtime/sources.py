"""Reading what a guest is to be told from where the spec says it is, with everything that is wrong with it at once."""

from __future__ import annotations

import errno
import glob
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kvmctl.errors import Problem
from kvmctl.guest.given import HIDDEN
from kvmctl.plan.guest import FirstBoot, Source, is_hash
from kvmctl.plan.sshkey import ALLOWED, key_problem

MOST: Final = 64 << 20
"""Bytes of one file. No guest is told that much; a device or a disk image taken for a file is more."""


@dataclass(slots=True)
class Gathered:
    """What the sources came to, what is wrong with them, and which variables are not set: for those stands something
    to look at."""

    contents: dict[Source, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unset: list[Source] = field(default_factory=list)


def gather(recipe: FirstBoot, *, spec: str, is_shown: bool = False) -> Gathered:
    """The bytes of every source of `recipe`, from the spec in the file `spec`. What is only shown hides passwords."""
    found = Gathered()
    passwords = {user.password: user.password_is_hash for user in recipe.users if user.password is not None}
    keys = {source for user in recipe.users for source in user.keys} | set(recipe.keys)
    for source in recipe.sources():
        if source in passwords and is_shown:
            found.contents[source] = HIDDEN.encode()
            continue
        if source.kind == "env" and source.value not in os.environ:
            found.unset.append(source)
            found.contents[source] = HIDDEN.encode()
            continue
        try:
            data = _READERS[source.kind](source, spec)
        except _Unreadable as error:
            found.problems.append(Problem(source.key, str(error), f"'{source.value}'" if source.value else ""))
            continue
        if source in passwords:
            data = data.rstrip(b"\r\n")
            found.problems += _password_problems(source, data, is_hash_wanted=passwords[source])
        if source in keys:
            found.problems += _key_problems(source, data)
        found.contents[source] = data
    return found


class _Unreadable(Exception):
    """Why a source can't be read."""


def _read_file(source: Source, _spec: str) -> bytes:
    try:
        with open(source.value, "rb") as file:
            data = file.read(MOST + 1)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise _Unreadable("there is no such file") from None
        raise _Unreadable(f"can't be read: {error.strerror}") from None
    if len(data) > MOST:
        raise _Unreadable(f"has more than {MOST >> 20}MiB, which no guest is told")
    return data


def _read_env(source: Source, _spec: str) -> bytes:
    return os.environb[os.fsencode(source.value)]


def _read_spec(source: Source, spec: str) -> bytes:
    """The value of the source's key in the spec itself: what is secret there is not copied into the plan."""
    try:
        with open(spec, "rb") as file:
            value: Any = json.load(file) if spec.endswith(".json") else tomllib.load(file)
        for step in source.key.replace("]", "").replace("[", ".").split("."):
            value = value[int(step)] if step.isdigit() else value[step]
        text = value["value"] if isinstance(value, Mapping) else value
    except (OSError, ValueError, LookupError, TypeError):
        raise _Unreadable("is in no file that could be read again; give it by file = ... or env = ...") from None
    return str(text).encode()


def _read_own_keys(_source: Source, _spec: str) -> bytes:
    """All public keys of whoever runs kvmctl; certificates are none."""
    found: list[bytes] = []
    for path in sorted(glob.glob(os.path.join(glob.escape(os.path.expanduser("~")), ".ssh", "*.pub"))):
        try:
            with open(path, "rb") as file:
                data = file.read(MOST)
        except OSError:
            continue
        if not path.endswith("-cert.pub") and not key_problem(data.decode(errors="replace")):
            found.append(data.strip())
    return b"\n".join(found) + b"\n"


_READERS: Final[Mapping[str, Callable[[Source, str], bytes]]] = {
    "text": lambda source, _spec: source.value.encode(),
    "file": _read_file,
    "env": _read_env,
    "spec": _read_spec,
    "own-keys": _read_own_keys,
}


def _password_problems(source: Source, data: bytes, *, is_hash_wanted: bool) -> Iterator[Problem]:
    """None of them shows the password."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        yield Problem(source.key, "is a password that is not UTF-8")
        return
    if not text or any(char in text for char in "\n\r\0"):
        yield Problem(source.key, "is no password: one line is, and not an empty one")
    elif is_hash_wanted and not is_hash(text):
        yield Problem(source.key, "holds no hash of a password", allowed="what 'openssl passwd -6' prints")


def _key_problems(source: Source, data: bytes) -> Iterator[Problem]:
    if source.kind == "own-keys":
        return  # there need not be any
    problem = key_problem(data.decode(errors="replace"))
    if problem:
        yield Problem(source.key, problem, f"'{source.value}'", ALLOWED)
