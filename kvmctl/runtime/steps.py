"""What has to exist before QEMU is started: images, UEFI variables, secrets, what the guest is told.

What was made is unmade if the start fails.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import assert_never

from kvmctl import files
from kvmctl.errors import HostError
from kvmctl.plan.guest import MakeKeys, TellGuest
from kvmctl.plan.layers import AddLayer, CopyImage
from kvmctl.plan.model import CopyNvram, CopySecret, CreateImage, CreateOverlay, MakeFifos, Plan, Step, StoreSecret
from kvmctl.runtime import deferred


def carry_out(plan: Plan, undo: ExitStack) -> None:
    """Do the plan's steps; `undo` unmakes what they made unless it is told otherwise. Raises ImageError, HostError."""
    for step in plan.steps:
        _carry_out(step, plan, undo)


def _carry_out(step: Step, plan: Plan, undo: ExitStack) -> None:
    match step:
        case CreateImage(path, image_format, size):
            if _is_wanted(path, undo):
                deferred.create_image(path, qemu=plan.qemu, image_format=image_format, size=size)
                undo.callback(_unlink, path)
        case CreateOverlay(path):
            if _is_wanted(path, undo):
                deferred.create_overlay(step, qemu=plan.qemu)
                undo.callback(_unlink, path)
        case CopyNvram(template, template_format, path):
            if _is_wanted(path, undo):
                deferred.copy_nvram(template, path, template_format=template_format, qemu=plan.qemu)
                undo.callback(_unlink, path)
        case StoreSecret(variable, path, key):
            secret = os.environ.get(variable)
            if secret is None:
                raise HostError(f"{key}: the environment variable {variable!r} is not set", hint=f"export {variable}=…")
            _store(path, secret.encode())
        case CopySecret(source, path):
            _store(path, _read(source).rstrip(b"\r\n"))
        case MakeFifos(path):
            _make_fifos(path, undo)
        case AddLayer() | CopyImage():
            _lay(step, plan, undo)
        case MakeKeys():
            deferred.make_keys(step, undo)
        case TellGuest():
            deferred.tell_guest(step, undo)
        case _:
            assert_never(step)


def _make_fifos(path: str, undo: ExitStack) -> None:
    """Make a pair of FIFOs, in place of those of an earlier run. Raises StateError."""
    for name in (f"{path}.in", f"{path}.out"):
        _unlink(name)
        try:
            os.mkfifo(name, 0o600)
            undo.callback(_unlink, name)
            os.chmod(name, 0o600)  # a umask may have taken more
        except OSError as error:
            raise files.cannot("make", name, error) from error


def _lay(step: AddLayer | CopyImage, plan: Plan, undo: ExitStack) -> None:
    """Make a disk on top of another."""
    if not _is_wanted(step.path, undo):
        return
    if isinstance(step, CopyImage):
        files.copy_file(step.source, step.path)
    else:
        deferred.create_layer(step, qemu=plan.qemu)
    undo.callback(_unlink, step.path)


def _is_wanted(path: str, undo: ExitStack) -> bool:
    """Whether `path` is still to be made; its directory is then there, and `undo` removes what of it was made."""
    if os.path.lexists(path):
        return False
    files.make_private_dir(os.path.dirname(path), undo=undo)
    return True


def _store(path: str, secret: bytes) -> None:
    files.make_private_dir(os.path.dirname(path))
    files.write_atomic(path, secret, is_volatile=True)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise files.cannot("read", path, error) from error


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
