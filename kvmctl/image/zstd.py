"""Zstandard by libzstd, which is on every system whose packages are compressed with it: dpkg itself needs it."""

from __future__ import annotations

import ctypes

_CHUNK = 1 << 20


class _Buffer(ctypes.Structure):
    """``ZSTD_inBuffer`` and ``ZSTD_outBuffer`` of <zstd.h>: an address, its size, and how far it was used."""

    _fields_ = (("at", ctypes.c_void_p), ("size", ctypes.c_size_t), ("used", ctypes.c_size_t))


def decompress(data: bytes) -> bytes:
    """All frames of `data`. Raises OSError where there is no libzstd, ValueError for bad data."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_createDStream.restype = ctypes.c_void_p
    library.ZSTD_decompressStream.restype = ctypes.c_size_t
    library.ZSTD_decompressStream.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Buffer), ctypes.POINTER(_Buffer))
    library.ZSTD_freeDStream.argtypes = (ctypes.c_void_p,)
    stream = library.ZSTD_createDStream()
    try:
        return _run(library, stream, data)
    finally:
        library.ZSTD_freeDStream(stream)


def _run(library: ctypes.CDLL, stream: int, data: bytes) -> bytes:
    source = ctypes.create_string_buffer(data, len(data))
    space = ctypes.create_string_buffer(_CHUNK)
    taken = _Buffer(ctypes.addressof(source), len(data), 0)
    result = bytearray()
    while True:
        given = _Buffer(ctypes.addressof(space), _CHUNK, 0)
        left = library.ZSTD_decompressStream(stream, ctypes.byref(given), ctypes.byref(taken))
        if library.ZSTD_isError(ctypes.c_size_t(left)):
            raise ValueError("damaged zstd data")
        result += space.raw[: given.used]
        if taken.used == taken.size and given.used < _CHUNK:
            break
    if left:
        raise ValueError("zstd data that ends in the middle")
    return bytes(result)
