"""Block nodes: an image as QEMU's block layer sees it, one node for its storage and one for its format."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from kvmctl.plan.option import Option, Value, jsonopt

Format: TypeAlias = Literal["raw", "qcow2"]
Cache: TypeAlias = Literal["writeback", "none", "writethrough", "directsync", "unsafe"]

DIRECT: Final = frozenset({"none", "directsync"})
"""Caches that bypass the host's page cache."""
WRITE_THROUGH: Final = frozenset({"writethrough", "directsync"})
"""Caches that the guest is told not to have."""


def block_nodes(
    node: str,
    path: str,
    *,
    image_format: str,
    is_cd: bool,
    read_only: bool,
    cache: Cache,
    aio: str,
    discard: str,
    detect_zeroes: str,
    why: str,
) -> tuple[Option, Option]:
    """The image at `path` as the node `node`. Its backing files are the image's own affair; its format is not."""
    common: dict[str, Value] = {
        "read-only": read_only,
        "cache": {"direct": cache in DIRECT, "no-flush": cache == "unsafe"},
        "discard": discard,
    }
    storage = {
        "driver": _protocol(path, is_cd=is_cd),
        "node-name": f"{node}-file",
        "filename": path,
        "aio": aio,
        **common,
    }
    image = {"driver": image_format, "node-name": node, "file": f"{node}-file", **common}
    image["detect-zeroes"] = detect_zeroes
    return jsonopt("blockdev", storage, why=why), jsonopt("blockdev", image, why=why)


def _protocol(path: str, *, is_cd: bool) -> str:
    if not is_block_device(path):
        return "file"
    return "host_cdrom" if is_cd else "host_device"


def is_block_device(path: str) -> bool:
    """Whether `path` is a device by its name, which is all that a spec shows: QEMU opens those with another driver."""
    return path.startswith("/dev/") and not path.startswith("/dev/shm/")  # noqa: S108  # a name, nothing is made there
