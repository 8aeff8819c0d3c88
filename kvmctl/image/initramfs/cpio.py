"""Writing the kernel's initramfs format: cpio "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).

Device nodes and owners are only numbers in a record here, so no privilege is needed for any of it. The same calls give
the same bytes: no times, and inode numbers in order.
"""

from __future__ import annotations

import stat
from posixpath import dirname

_NO_DEVICE = (0, 0)


class Archive:
    """An archive in the making. Parent directories come by themselves, 0755."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0
        self._names: set[str] = set()

    def add_directory(self, path: str, *, mode: int = 0o755) -> None:
        """A directory; one that is there already stays as it is."""
        path = path.strip("/")
        if path and path not in self._names:
            self._add(path, stat.S_IFDIR | mode, links=2)

    def add_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """A file. Raises ValueError if there is something of that name."""
        self._add(path, stat.S_IFREG | mode, data)

    def add_link(self, path: str, target: str) -> None:
        """A symbolic link. Raises ValueError if there is something of that name."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def add_character_device(self, path: str, *, mode: int, number: tuple[int, int]) -> None:
        """A character device by its major and minor number."""
        self._add(path, stat.S_IFCHR | mode, device=number)

    def finish(self) -> bytes:
        """The archive, complete."""
        self._record("TRAILER!!!", 0, b"", links=1, device=_NO_DEVICE, inode=0)
        self._data += bytes(-len(self._data) % 512)
        return bytes(self._data)

    def _add(
        self, path: str, mode: int, data: bytes = b"", *, links: int = 1, device: tuple[int, int] = _NO_DEVICE
    ) -> None:
        path = path.strip("/")
        if path in self._names:
            raise ValueError(f"{path!r} is in the archive already")
        self.add_directory(dirname(path))
        self._names.add(path)
        self._inode += 1
        self._record(path, mode, data, links=links, device=device, inode=self._inode)

    def _record(self, name: str, mode: int, data: bytes, *, links: int, device: tuple[int, int], inode: int) -> None:
        terminated = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(terminated), 0)
        header = "070701" + "".join(f"{value:08X}" for value in fields)
        for part in (header.encode() + terminated, data):
            self._data += part
            self._data += bytes(-len(self._data) % 4)
