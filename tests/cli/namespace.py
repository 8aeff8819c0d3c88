"""A network of the test's own: a namespace with a bridge in it, and the command line within."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .conftest import PATIENCE, Done, Kvmctl

SPEC = """
memory = "16MiB"
cpus = 2
firmware = "qboot.rom"
[boot]
kernel = "builtin:tiny"
[[networks]]
type = "tap"
"""


class Net:
    """A network namespace with a bridge, and ``kvmctl`` within it."""

    def __init__(self, name: str, kvmctl: Kvmctl) -> None:
        self._inside = ("ip", "netns", "exec", name)
        self._kvmctl = kvmctl
        self.kvmctl = Kvmctl(kvmctl.directory, kvmctl.environment, wrap=self._inside)
        self.add_bridge()

    def add_bridge(self) -> None:
        """Make the bridge br0."""
        self.ip("link", "add", "br0", "type", "bridge")
        self.ip("link", "set", "br0", "up")

    def ip(self, *words: str) -> str:
        """What ``ip`` prints."""
        return subprocess.run(
            [*self._inside, "ip", *words], capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout

    def python(self, source: str) -> str:
        """What a program prints that uses the library within it."""
        command = [*self._inside, sys.executable, "-c", source]
        return subprocess.run(
            command,
            env=self._kvmctl.environment,
            cwd=self._kvmctl.directory,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=PATIENCE,
        ).stdout

    def links(self, *words: str) -> dict[str, dict[str, object]]:
        """The interfaces that `words` select, by name."""
        return {link["ifname"]: link for link in json.loads(self.ip("-json", "-details", "link", "show", *words))}

    def start(self, network: str, *, name: str = "wired", wrap: tuple[str, ...] = ()) -> Done:
        """Start machine `name` with the tap that the keys in `network` describe."""
        spec = self._kvmctl.directory / "wired.toml"
        spec.write_text(SPEC + network)
        inside = Kvmctl(self._kvmctl.directory, self._kvmctl.environment, wrap=(*self._inside, *wrap))
        return inside("start", str(spec), "--name", name)


@contextmanager
def network_of(kvmctl: Kvmctl) -> Iterator[Net]:
    """A namespace for `kvmctl`, which leaves no machine behind."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or shutil.which("ip") is None:
        pytest.skip("needs root, /dev/net/tun and ip")
    name = f"kvmctl-test-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False, timeout=PATIENCE).returncode:
        pytest.skip("this host allows no network namespaces")
    try:
        yield Net(name, kvmctl)
        runtime = kvmctl.directory / "runtime"
        assert not runtime.exists() or not any(runtime.iterdir())
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=PATIENCE)
