"""Files into the guest and out of it, by commands of its own: cat, and tar for directories."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from kvmctl.errors import CommandFailed, StateError
from kvmctl.runtime.vm import Vm

_PIECE: Final = 1 << 20
"""Bytes that are sent at once: a command's input travels in one request, and a guest without KVM reads that slowly."""
_BEGIN: Final = 'mkdir -p "$(dirname "$1")" && : >"$1.part"'
_PUT: Final = 'cat >>"$1.part"'
_PACK: Final = 'cd "$(dirname "$1")" && tar -cf - "$(basename "$1")"'
_FINISH: Final = 'mv -f "$1.part" "$1"; chmod "$2" "$1"'
_UNPACK: Final = 'mkdir -p "$1" && tar -C "$1" -xf "$1.part"; code=$?; rm -f "$1.part"; exit $code'


async def copy_in(vm: Vm, source: str | os.PathLike[str], target: str) -> None:
    """Copy a file or directory of the host to `target` in the guest. Raises StateError, CommandFailed, AgentError."""
    try:
        with _packed(Path(source)) as (file, mode):
            await _run(vm, _BEGIN, target)
            while piece := file.read(_PIECE):
                await _run(vm, _PUT, target, stdin=piece)
    except OSError as error:
        raise StateError(f"{os.fspath(source)!r} can't be copied: {error.strerror}") from error
    if mode is None:
        await _run(vm, _UNPACK, target)
    else:
        await _run(vm, _FINISH, target, f"{mode:o}")


@contextmanager
def _packed(path: Path) -> Iterator[tuple[IO[bytes], int | None]]:
    """A file and its mode; a directory as an archive, with None for the mode. Raises OSError."""
    if not path.is_dir():
        with path.open("rb") as file:
            yield file, path.stat().st_mode & 0o777
        return
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(path, arcname=".")
        packed.seek(0)
        yield packed, None


async def copy_out(vm: Vm, source: str, target: str | os.PathLike[str]) -> None:
    """Copy a file or directory of the guest to `target` on the host, in it where it is a directory that is there.

    Raises StateError, CommandFailed, AgentError.
    """
    try:
        with tempfile.TemporaryFile() as packed:
            await _run(vm, _PACK, source, out=packed)
            packed.seek(0)
            _unpack(packed, Path(target), os.path.basename(source.rstrip("/")))
    except (OSError, tarfile.TarError) as error:
        raise StateError(f"{source!r} can't be copied to {os.fspath(target)!r}: {error}") from error


def _unpack(packed: IO[bytes], target: Path, name: str) -> None:
    """Unpack what a guest has sent, which may be anything: nothing of it ends up beside `target`. Raises OSError."""
    place = target / name if target.is_dir() else target
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as directory:
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(directory, filter="data")
        (Path(directory) / name).replace(place)


async def _run(vm: Vm, script: str, *arguments: str, stdin: bytes = b"", out: IO[bytes] | None = None) -> None:
    def put(data: bytes) -> None:
        if out is not None:
            out.write(data)

    result = await vm.exec(["sh", "-c", script, "kvmctl", *arguments], stdin=stdin, on_stdout=put)
    if result.exit_code:
        raise CommandFailed(
            f"copying to or from {arguments[0]!r} failed in the guest of {vm.name!r}", detail=_text(result.stderr)
        )


def _text(output: bytes) -> str:
    return output.decode(errors="replace").strip()
