"""Looking before the leap: what QEMU would refuse in its own words, said with the spec's key and the holder's name.

None of this is a guarantee; QEMU's own checks still hold when somebody is quicker.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial

from kvmctl.errors import HostError, ImageBusy, ImageError, KvmctlError, NotFound, PortBusy
from kvmctl.image.ofd import is_in_use
from kvmctl.plan.model import CopyNvram, CreateImage, CreateOverlay, Input, Plan, Port
from kvmctl.plan.share import InputDirectory
from kvmctl.runtime import deferred


def check(plan: Plan) -> None:
    """Raises NotFound, HostError, ImageMissing, ImageError, ImageBusy, PortBusy or StateError for the first thing
    that is in the way, with the others in its detail."""
    errors = []
    for look in _looks(plan):
        try:
            look()
        except KvmctlError as error:
            errors.append(error)
    if errors:
        first, *others = errors
        also = (f"and {error.summary}" for error in others)
        first.detail = "\n".join(filter(None, (first.detail, *also)))
        raise first


def _looks(plan: Plan) -> Iterator[Callable[[], None]]:
    """All that is looked at."""
    made = {step.path for step in plan.steps if isinstance(step, CreateImage | CreateOverlay | CopyNvram)}
    for step in plan.steps:
        if isinstance(step, CreateOverlay) and not os.path.lexists(step.path):
            yield partial(deferred.check_overlay, step)
    for item in plan.inputs:
        if isinstance(item, InputDirectory):
            yield partial(_check_directory, item)
        elif item.path not in made or os.path.lexists(item.path):
            yield partial(_check_input, item)
    for port in plan.ports:
        yield partial(_check_port, port)


def _check_input(item: Input) -> None:
    if not os.path.exists(item.path):
        raise _missing(item)
    mode = os.R_OK | (os.W_OK if item.writable else 0)
    if not os.access(item.path, mode):
        wish = "read and write" if item.writable else "read"
        owner = os.stat(item.path)
        raise ImageError(
            f"{item.key}: no permission to {wish} {item.path!r}",
            detail=f"mode {owner.st_mode & 0o7777:04o}, owner {owner.st_uid}:{owner.st_gid}; we are {os.geteuid()}",
            hint="QEMU runs as you: make the file yours or readable to you; kvmctl never changes its owner.",
        )
    if item.locked and is_in_use(item.path, for_writing=item.writable):
        holders = deferred.find_holders(item.path)
        raise ImageBusy(
            f"{item.key}: {item.path!r} is in use by {' and '.join(map(str, holders)) or 'another process'}",
            hint="Stop that one first, or give this machine an overlay of its own: qemu-img create -b.",
            holder=holders[0].pid if holders else None,
        )


def _missing(item: Input) -> NotFound:
    can_be_made = item.locked and item.writable  # a disk: everything else is somebody's to provide
    if os.path.islink(item.path):
        hint = "A broken link counts as missing" + ("; a disk with a size is made on demand." if can_be_made else ".")
    else:
        hint = "Give the path of a file that exists" + (", or a size for a disk to be made." if can_be_made else ".")
    return NotFound(f"{item.key}: {item.path!r} does not exist", hint=hint)


def _check_directory(item: InputDirectory) -> None:
    if not os.path.exists(item.path):
        raise NotFound(f"{item.key}: {item.path!r} does not exist", hint="Give the path of a directory that exists.")
    if not os.path.isdir(item.path):
        raise NotFound(f"{item.key}: {item.path!r} is no directory", hint="Give the path of a directory.")
    if not os.access(item.path, os.R_OK | os.X_OK):
        owner = os.stat(item.path)
        raise HostError(
            f"{item.key}: no permission to read the directory {item.path!r}",
            detail=f"mode {owner.st_mode & 0o7777:04o}, owner {owner.st_uid}:{owner.st_gid}; we are {os.geteuid()}",
            hint="The guest sees what you may see: make the directory readable to you.",
        )


def _check_port(port: Port) -> None:
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.port))
        except OSError as error:
            holder = deferred.find_listener(port.port)
            by = f" by {holder}" if holder else ""
            raise PortBusy(
                f"{port.key}: cannot listen on {port.host}:{port.port}, it is taken{by}"
                if error.errno == errno.EADDRINUSE
                else f"{port.key}: cannot listen on {port.host}:{port.port}: {error.strerror}",
                hint="Choose another port, or let one be found.",
                holder=holder.pid if holder else None,
            ) from error
