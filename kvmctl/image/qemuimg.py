"""qemu-img: JSON out, clear errors in. Formats are always given, never probed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from kvmctl.errors import HostError, ImageError
from kvmctl.image.hold import NO_HOLD, Hold


def find_qemu_img(qemu: str) -> str:
    """The qemu-img beside the QEMU binary `qemu`, else the one on PATH. Raises HostError."""
    beside = os.path.join(os.path.dirname(qemu), "qemu-img")
    found = beside if os.access(beside, os.X_OK) else shutil.which("qemu-img")
    if found is None:
        raise HostError("qemu-img was not found", hint="Install it: apt install qemu-utils, or dnf install qemu-img.")
    return found


def create(program: str, path: str, *, image_format: str, size: int, hold: Hold = NO_HOLD) -> None:
    """Make an empty image of `size` bytes, 0600; it is at `path` whole or not at all. Raises ImageError."""
    partial = f"{path}.{os.getpid()}.part"
    _run([program, "create", "-q", "-f", image_format, partial, str(size)], partial, path, verb="create", hold=hold)


def create_layer(
    program: str, path: str, *, backing: str, backing_format: str, size: int | None = None, hold: Hold = NO_HOLD
) -> None:
    """Make an empty qcow2 image on top of `backing`, 0600; it is at `path` whole or not at all. Raises ImageError.

    With a `size`, in bytes, the backing file is not looked at and need not be there yet.
    """
    partial = f"{path}.{os.getpid()}.part"
    argv = [program, "create", "-q", "-f", "qcow2", "-F", backing_format, "-b", backing]
    argv += [partial] if size is None else ["-u", partial, str(size)]
    _run(argv, partial, path, verb="create", hold=hold)


def virtual_size(program: str, path: str, *, image_format: str) -> int:
    """The bytes that a guest sees of the image. Raises ImageError."""
    argv = [program, "info", "--output=json", "-U", "-f", image_format, path]
    try:
        result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ImageError(f"cannot look into the image {path!r}: {error.strerror}") from error
    if result.returncode != 0:
        raise ImageError(f"cannot look into the image {path!r}", detail=result.stderr.strip())
    return int(json.loads(result.stdout)["virtual-size"])


def create_overlay(
    program: str, path: str, *, backing: str, backing_format: str, size: int | None = None, hold: Hold = NO_HOLD
) -> None:
    """Make a qcow2 overlay of `backing`, as large or of `size` bytes, 0600; it is at `path` whole or not at all.

    Raises ImageError.
    """
    partial = f"{path}.{os.getpid()}.part"
    argv = [program, "create", "-q", "-f", "qcow2", "-b", backing, "-F", backing_format, partial]
    _run([*argv, *([] if size is None else [str(size)])], partial, path, verb="create", hold=hold)


def convert(
    program: str,
    source: str,
    path: str,
    *,
    source_format: str,
    image_format: str,
    compressed: bool = False,
    hold: Hold = NO_HOLD,
) -> None:
    """Copy `source` to `path` in another format, 0600, whole or not at all. Raises ImageError.

    Compressed is by zstd, which only qcow2 can be.
    """
    partial = f"{path}.{os.getpid()}.part"
    options = ["-c", "-o", "compression_type=zstd"] if compressed else []
    argv = [program, "convert", "-q", *options, "-f", source_format, "-O", image_format, source, partial]
    _run(argv, partial, path, verb="convert", hold=hold)


def _run(argv: list[str], partial: str, path: str, *, verb: str, hold: Hold) -> None:
    try:
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            umask=0o077,
            pass_fds=hold.inherited,
        )
        if result.returncode != 0:
            raise ImageError(f"cannot {verb} the image {path!r}", detail=result.stderr.replace(partial, path).strip())
        hold.on_made(partial)
        os.rename(partial, path)
    except OSError as error:
        raise ImageError(f"cannot {verb} the image {path!r}: {error.strerror}") from error
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)
