"""Which QEMU a binary is, told from files' stamps and without running it. Every start and every fork asks for it, so
nothing is imported here that takes time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

_SCRIPT_LIMIT: Final = 64 << 10
_MODULE_DIRECTORIES: Final = ("lib/qemu", "lib64/qemu", "lib/x86_64-linux-gnu/qemu")


def identify(path: str, *, env: Mapping[str, str]) -> str | None:
    """The identity of the binary at `path`: another one when the binary or its set of modules is replaced.

    A script counts together with every program it names by an absolute path. One that finds its QEMU in another way
    has no identity that could be trusted: None.
    """
    try:
        programs = _find_programs(path)
        stamps = [stamp(file) for file in (*programs, *_find_module_directories(programs, env))]
    except OSError:
        return None
    return json.dumps(stamps) if programs else None


def _find_programs(path: str) -> list[str]:
    """`path`, and what it runs if it is a script; empty if that can't be told."""
    with open(path, "rb") as file:
        head = file.read(_SCRIPT_LIMIT)
    if not head.startswith(b"#!"):
        return [path]
    body = head.partition(b"\n")[2].decode(errors="replace")
    named = dict.fromkeys(re.findall(r"/[^\s'\"=:;]+", body))
    programs = [file for file in named if os.path.isfile(file) and os.access(file, os.X_OK)]
    return [path, *programs] if programs else []


def _find_module_directories(programs: list[str], env: Mapping[str, str]) -> Iterator[str]:
    """Where QEMU looks for modules: a package that adds one changes what it can do, and not the binary."""
    asked = env.get("QEMU_MODULE_DIR")
    prefixes = dict.fromkeys(os.path.dirname(os.path.dirname(os.path.realpath(program))) for program in programs)
    candidates = [os.path.join(prefix, directory) for prefix in prefixes for directory in _MODULE_DIRECTORIES]
    yield from (directory for directory in (*([asked] if asked else ()), *candidates) if os.path.isdir(directory))


def stamp(path: str) -> list[str | int]:
    """What changes when the file at `path` is replaced or written. Raises OSError."""
    status = os.stat(path)
    return [path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
