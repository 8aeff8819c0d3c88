"""The ssh keys of a machine: one that kvmctl logs in with, and the guest's own, which it is given at first boot.

With the guest's key made by us its identity is known before it first boots, and nobody is ever asked to trust a key
that was never seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from kvmctl import files
from kvmctl.errors import HostError, StateError
from kvmctl.plan.guest import MakeKeys
from kvmctl.runtime.made import Made

_PACKAGES = "Install it: apt install openssh-client, or dnf install openssh-clients."
_CLIENT, _HOST, _KNOWN = "id_ed25519", "host_ed25519", "known_hosts"
_PARTIAL = ".part"


@dataclass(frozen=True, slots=True)
class Keys:
    """The texts of a machine's keys."""

    client_public: str
    host_private: str
    host_public: str


def make_keys(step: MakeKeys, made: Made) -> None:
    """Make the keys that are not there, on record in `made`. Raises HostError, StateError."""
    made.directory(step.directory)
    for name in os.listdir(step.directory):
        if name.endswith((_PARTIAL, f"{_PARTIAL}.pub", ".tmp")):
            _unlink(os.path.join(step.directory, name))  # of one whose record a reboot has cost
    _make_key(os.path.join(step.directory, _CLIENT), comment=step.alias, made=made)
    _make_key(os.path.join(step.directory, _HOST), comment=step.alias, made=made)
    public = _read(os.path.join(step.directory, f"{_HOST}.pub"))
    line = f"{step.alias} {' '.join(public.split()[:2])}\n".encode()
    known = os.path.join(step.directory, _KNOWN)
    if not os.path.exists(known):
        made.file(known)
    elif _read(known).encode() == line:
        return
    files.write_atomic(known, line)


def are_made(directory: str) -> bool:
    """Whether there are keys in `directory`."""
    return os.path.exists(os.path.join(directory, _KNOWN))


def load_keys(directory: str) -> Keys:
    """The keys in `directory`. Raises StateError."""
    return Keys(
        client_public=_read(os.path.join(directory, f"{_CLIENT}.pub")).strip(),
        host_private=_read(os.path.join(directory, _HOST)),
        host_public=_read(os.path.join(directory, f"{_HOST}.pub")).strip(),
    )


def _make_key(path: str, *, comment: str, made: Made) -> None:
    """An ed25519 key at `path` and its public half beside it, of which the private one is there last."""
    if os.path.exists(path):
        if not os.path.exists(f"{path}.pub"):
            made.replaced(f"{path}.pub")
            files.write_atomic(f"{path}.pub", _keygen("-y", "-P", "", "-f", path).encode())
        return
    partial = f"{path}.{os.getpid()}{_PARTIAL}"
    made.file(f"{path}.pub")
    made.file(path)
    try:
        _keygen("-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", partial, inherited=made.inherited)
        os.chmod(f"{partial}.pub", 0o600)
        os.rename(f"{partial}.pub", f"{path}.pub")
        os.rename(partial, path)
        files.sync_dir(os.path.dirname(path))
    except OSError as error:
        raise files.cannot("make the key", path, error) from error
    finally:
        for leftover in (partial, f"{partial}.pub"):
            _unlink(leftover)


def _keygen(*arguments: str, inherited: tuple[int, ...] = ()) -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise HostError("ssh-keygen was not found, which makes the guest's keys", hint=_PACKAGES)
    done = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        umask=0o077,
        pass_fds=inherited,
    )
    if done.returncode != 0:
        raise StateError("ssh-keygen failed", detail=(done.stderr + done.stdout).strip())
    return done.stdout


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise files.cannot("read", path, error) from error


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
