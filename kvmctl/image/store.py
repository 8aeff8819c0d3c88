"""The image store: disk images by the digest of their content, and the names that they go by.

An image is there whole, checked and under its digest, or not at all. Names come and go; an image is only removed when
no name and no overlay needs it any more (`kvmctl.image.uses`). May import the error tree and the plan's paths.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from hashlib import sha256

from kvmctl import files
from kvmctl.errors import ImageBusy, ImageError, NotFound, StateError
from kvmctl.image import ofd, qcow2, storage
from kvmctl.image.record import Format, Image, Origin, check_name, missing
from kvmctl.plan.paths import ImagePaths, is_name

CHUNK = 1 << 20
_ZEROES = bytes(CHUNK)


@dataclass(frozen=True, slots=True)
class Store:
    """The store, by its paths; it need not be there yet."""

    paths: ImagePaths

    def names(self) -> list[str]:
        """The names that are taken, sorted. Raises StateError."""
        return sorted(entry.removesuffix(".json") for entry in _entries(self.paths.names) if entry.endswith(".json"))

    def digests(self) -> list[str]:
        """The digests of all images, whether they bear a name or not. Raises StateError."""
        return sorted(_entries(self.paths.blobs))

    def find(self, name: str) -> Image | None:
        """The image of that name; None where there is none. Raises StateError for a record that can't be read."""
        if not is_name(name):
            return None
        path = self.paths.record(name)
        try:
            with open(path, encoding="utf-8") as file:
                record = json.load(file)
            image = Image(**{item.name: record[item.name] for item in fields(Image) if item.name in record})
            bytes.fromhex(image.digest)  # it is made into a path
            return image
        except FileNotFoundError:
            return None
        except OSError as error:
            raise files.cannot("read", path, error) from error
        except (ValueError, KeyError, TypeError) as error:
            hint = f"Remove it and get the image again: kvmctl image rm {name}"
            raise StateError(f"{path!r} is not a record of an image", detail=str(error), hint=hint) from error

    def get(self, name: str, *, catalogued: Callable[[], Collection[str]]) -> Image:
        """The image of that name, its file there; `catalogued` gives the names that can be had.

        Raises ImageMissing, saying how to get it, and StateError.
        """
        image = self.find(name)
        if image is None:
            raise missing(name, stored=self.names(), catalogued=catalogued())
        if not os.path.exists(self.paths.blob(image.digest)):
            hint = f"Get it again: kvmctl image rm {name}, then kvmctl image pull or import."
            raise StateError(f"the file of the image {name!r} is gone: {self.paths.blob(image.digest)!r}", hint=hint)
        return image

    def add_file(
        self,
        path: str,
        *,
        name: str,
        image_format: Format,
        origin: Origin | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Image:
        """Take a copy of the file at `path` in as `name`, which from then on is its name.

        `on_progress` is told the bytes done. Raises NotFound, ImageError, ImageBusy, StateError.
        """
        check_name(name)
        origin = origin or Origin(os.path.abspath(path))
        return self.add(_read(path), name=name, image_format=image_format, origin=origin, on_progress=on_progress)

    def add(
        self,
        pieces: Iterable[bytes],
        *,
        name: str,
        image_format: Format,
        origin: Origin,
        on_progress: Callable[[int], None] | None = None,
    ) -> Image:
        """Take in as `name` the image that `pieces` make up; see `add_file`."""
        digest = sha256()
        with self._incoming() as (path, descriptor):
            try:
                _write_sparsely(_counted(pieces, digest.update, on_progress), descriptor)
            except OSError as error:
                raise files.cannot("write", path, error) from error
            return self._publish(
                path, descriptor, digest.hexdigest(), name=name, image_format=image_format, origin=origin
            )

    def adopt(self, path: str, digest: str, *, name: str, image_format: Format, origin: Origin) -> Image:
        """Take in as `name` the file at `path` itself, whose SHA-256 is `digest` and which nobody else uses.

        It is moved where it can be and copied otherwise, and gone from `path` afterwards. Raises as `add_file`.
        """
        incoming = os.path.join(self.paths.incoming, secrets.token_hex(8))
        try:
            with storage.open_private(path, os.O_RDWR) as descriptor:
                ofd.try_lock(descriptor)  # before it lies among the incoming, where what is not locked is swept
                files.make_private_dir(os.path.dirname(incoming))
                os.rename(path, incoming)
                try:
                    return self._publish(
                        incoming, descriptor, digest, name=name, image_format=image_format, origin=origin
                    )
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(incoming)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise files.cannot("move", path, error) from error
        image = self.add_file(path, name=name, image_format=image_format, origin=origin)
        os.unlink(path)
        return image

    def remove(self, name: str) -> Image | None:
        """Take the name away; the image it was, None where that could not be read. Call it with the lock held.

        The image itself stays for whoever uses it. Raises ImageMissing, StateError.
        """
        if not is_name(name) or not os.path.lexists(self.paths.record(name)):
            raise missing(name, stored=self.names())
        image = None
        with suppress(StateError):
            image = self.find(name)
        try:
            os.unlink(self.paths.record(name))
            files.sync_dir(self.paths.names)
        except OSError as error:
            raise files.cannot("remove", self.paths.record(name), error) from error
        return image

    def lock(self, *, is_shared: bool = False) -> AbstractContextManager[None]:
        """Hold the store: shared, nothing in it is removed meanwhile. Raises StateError."""
        files.make_private_dir(self.paths.root)
        return storage.locked(self.paths.lock, is_shared=is_shared)

    def abandoned(self) -> list[str]:
        """The files that were on their way in when their bringer was killed. Call it with the lock held."""
        paths = [os.path.join(self.paths.incoming, entry) for entry in _entries(self.paths.incoming)]
        return [path for path in paths if os.path.exists(path) and not ofd.is_path_locked(path)]

    def _publish(
        self, path: str, descriptor: int, digest: str, *, name: str, image_format: Format, origin: Origin
    ) -> Image:
        """Make the incoming file at `path` an image: look at it, put it under its digest, give it its name."""
        size = qcow2.check(path, image_format=image_format, name=os.path.basename(origin.source))
        try:
            os.fchmod(descriptor, 0o400)
            os.fsync(descriptor)
            stored = os.fstat(descriptor).st_size
        except OSError as error:
            raise files.cannot("write", path, error) from error
        image = Image(name, digest, image_format, size, stored, time.time(), **asdict(origin))
        with self.lock():
            blob = self.paths.blob(digest)
            files.make_private_dir(os.path.dirname(blob))
            files.make_private_dir(os.path.dirname(self.paths.record(name)))
            try:
                if storage.size_of(blob) != stored:  # not there, or damaged
                    os.rename(path, blob)
                    files.sync_dir(os.path.dirname(blob))
            except OSError as error:
                raise files.cannot("write", blob, error) from error
            files.write_atomic(self.paths.record(name), json.dumps(asdict(image), indent=1).encode())
        return image

    @contextmanager
    def _incoming(self) -> Iterator[tuple[str, int]]:
        """A new file to bring an image in by, gone again unless it was made one."""
        files.make_private_dir(self.paths.incoming)
        path = os.path.join(self.paths.incoming, secrets.token_hex(8))
        with self.lock():
            for stray in self.abandoned():
                os.unlink(stray)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise files.cannot("write", path, error) from error
            ofd.try_lock(descriptor)
        try:
            yield path, descriptor
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.close(descriptor)


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.cannot("read", folder, error) from error


def _read(path: str) -> Iterator[bytes]:
    """The content of the file at `path`, piece by piece. Raises NotFound, ImageError, ImageBusy."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            raise ImageError(f"{path!r} is not a file", hint="Copy what it holds into one: qemu-img convert.")
        if ofd.is_in_use(path, for_writing=False):
            raise ImageBusy(f"{path!r} is being written by a machine", hint="Stop that machine first.")
        with open(path, "rb") as file:
            while piece := file.read(CHUNK):
                yield piece
    except FileNotFoundError:
        raise NotFound(f"there is no image file {path!r}") from None
    except OSError as error:
        raise ImageError(f"cannot read the image {path!r}: {error.strerror}") from error


def _counted(
    pieces: Iterable[bytes], update: Callable[[bytes], None], on_progress: Callable[[int], None] | None
) -> Iterator[bytes]:
    """`pieces` as they come, each given to `update` and its bytes told of."""
    done = 0
    for piece in pieces:
        update(piece)
        yield piece
        done += len(piece)
        if on_progress is not None:
            on_progress(done)


def _write_sparsely(pieces: Iterable[bytes], descriptor: int) -> None:
    """Write `pieces` one after the other, leaving holes where they are zero."""
    end = 0
    for piece in pieces:
        if piece != _ZEROES[: len(piece)]:
            view = memoryview(piece)
            written = 0
            while written < len(piece):
                written += os.pwrite(descriptor, view[written:], end + written)
        end += len(piece)
    os.ftruncate(descriptor, end)
