"""Finding a virtiofsd that works: one that runs where kvmctl would run it, in namespaces of its own.

It is announced by descriptors (QEMU's docs/interop/vhost-user.json), and otherwise lies where distributions hide it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from kvmctl.host import probe_cache
from kvmctl.host.binary import identify
from kvmctl.host.identity import VIRTIOFSD_PATHS, list_descriptors
from kvmctl.ioctl import confine
from kvmctl.plan.virtiofsd import Virtiofsd, understand

_PROBE_SECONDS: Final = 10.0
NONE: Final = "no virtiofsd is installed"


def probe_virtiofsd(*, env: Mapping[str, str], cache: str | None, remember: bool = True) -> Virtiofsd:
    """The first virtiofsd that works, from the files in the directory `cache` if it is the one they describe.

    ``$KVMCTL_VIRTIOFSD`` names the only one that is looked at. Never raises: where none works, the answer says why.
    """
    found = None
    for path in dict.fromkeys(_candidates(env)):
        daemon = _probe_cached(path, env=env, cache=cache, remember=remember)
        if daemon.works:
            return daemon
        found = found or daemon
    return found or Virtiofsd(reason=NONE)


def _candidates(env: Mapping[str, str]) -> Iterator[str]:
    if asked := env.get("KVMCTL_VIRTIOFSD"):
        yield shutil.which(asked, path=env.get("PATH")) or asked
        return
    yield from filter(None, map(_described, list_descriptors(env)))
    yield from (path for path in VIRTIOFSD_PATHS if os.access(path, os.X_OK))
    if path := shutil.which("virtiofsd", path=env.get("PATH")):
        yield path


def _described(descriptor: str) -> str | None:
    """The binary that a descriptor says serves file systems."""
    try:
        record = json.loads(Path(descriptor).read_bytes())
    except (OSError, ValueError):
        return None
    match record:
        case {"type": "fs", "binary": str(binary)} if os.access(binary, os.X_OK):
            return binary
        case _:
            return None


def _probe_cached(path: str, *, env: Mapping[str, str], cache: str | None, remember: bool) -> Virtiofsd:
    identity = identify(path, env=env) if cache is not None else None
    if cache is None or identity is None:
        return _probe(path)
    entry = probe_cache.Entry(Path(cache), path, identity)
    if text := entry.load_help():
        return understand(path, text)
    daemon, text = _ask(path)
    if daemon.works and remember:  # what fails may work in a minute, with a setting changed
        entry.save_help(text)
    return daemon


def _probe(path: str) -> Virtiofsd:
    return _ask(path)[0]


def _ask(path: str) -> tuple[Virtiofsd, str]:
    """What the binary at `path` is, and what it printed: asked in namespaces such as it will serve in."""
    if not os.access(path, os.X_OK):
        return Virtiofsd(path, reason=f"there is no executable {path!r}"), ""
    folder = os.path.dirname(os.path.abspath(path))
    confined = (sys.executable, "-I", "-S", confine.__file__, "ro", folder, folder, "--")
    try:
        done = subprocess.run(
            [*confined, path, "--help"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Virtiofsd(path, reason=f"{path!r} can't be run: {error}"), ""
    if done.returncode:
        words = done.stderr.strip().rpartition("\n")[2].removeprefix(f"cannot share {folder!r}: ")
        reason = f"{path!r} does not run confined: {words or f'it exited with status {done.returncode}'}"
        return Virtiofsd(path, reason=reason), ""
    return understand(path, done.stdout + done.stderr), done.stdout + done.stderr
