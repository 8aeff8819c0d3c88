"""What has to exist before QEMU is started: images, UEFI variables, secrets, what the guest is told.

What was made is unmade if the start fails: see `kvmctl.runtime.made`.
"""

from __future__ import annotations

import os
from typing import assert_never

from kvmctl import files
from kvmctl.errors import HostError
from kvmctl.plan.guest import MakeKeys, TellGuest
from kvmctl.plan.layers import AddLayer, CopyImage
from kvmctl.plan.model import CopyNvram, CopySecret, CreateImage, CreateOverlay, MakeFifos, Plan, Step, StoreSecret
from kvmctl.runtime import deferred
from kvmctl.runtime.made import Made


def carry_out(plan: Plan, made: Made) -> None:
    """Do the plan's steps; what they make beside the run directory is on record. Raises ImageError, HostError."""
    for step in plan.steps:
        _carry_out(step, plan, made)


def _carry_out(step: Step, plan: Plan, made: Made) -> None:
    match step:
        case CreateImage() | CreateOverlay() | CopyNvram() | AddLayer() | CopyImage():
            if not os.path.lexists(step.path):
                made.directory(os.path.dirname(step.path))
                _make_image(step, plan, made)
        case StoreSecret(variable, path, key):
            secret = os.environ.get(variable)
            if secret is None:
                raise HostError(f"{key}: the environment variable {variable!r} is not set", hint=f"export {variable}=…")
            _store(path, secret.encode())
        case CopySecret(source, path):
            _store(path, _read(source).rstrip(b"\r\n"))
        case MakeFifos(path):
            _make_fifos(path)
        case MakeKeys():
            deferred.make_keys(step, made)
        case TellGuest():
            deferred.tell_guest(step, made)
        case _:
            assert_never(step)


def _make_image(step: CreateImage | CreateOverlay | CopyNvram | AddLayer | CopyImage, plan: Plan, made: Made) -> None:
    if isinstance(step, CopyImage):
        made.file(step.path)
        files.copy_file(step.source, step.path)
        return
    hold = made.image(step.path)
    match step:
        case CreateImage(path, image_format, size):
            deferred.create_image(path, qemu=plan.qemu, image_format=image_format, size=size, hold=hold)
        case CreateOverlay():
            deferred.create_overlay(step, qemu=plan.qemu, hold=hold)
        case CopyNvram(template, template_format, path):
            deferred.copy_nvram(template, path, template_format=template_format, qemu=plan.qemu, hold=hold)
        case AddLayer():
            deferred.create_layer(step, qemu=plan.qemu, hold=hold)
        case _:
            assert_never(step)


def _make_fifos(path: str) -> None:
    """Make a pair of FIFOs. Raises StateError."""
    for name in (f"{path}.in", f"{path}.out"):
        try:
            os.mkfifo(name, 0o600)
            os.chmod(name, 0o600)  # a umask may have taken more
        except OSError as error:
            raise files.cannot("make", name, error) from error


def _store(path: str, secret: bytes) -> None:
    files.make_private_dir(os.path.dirname(path))
    files.write_atomic(path, secret, is_volatile=True)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise files.cannot("read", path, error) from error
