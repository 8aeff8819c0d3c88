"""The init of a machine that is made of its host: eleven kilobytes that are all of its initramfs but kernel modules.

It mounts the directory that the host shares as its root, read-only, puts under it what every Linux has there, goes
into it, and runs what the host asks for over a virtio-serial port: streams apart, exit codes and signals as they are.
It needs nothing of the root, so any directory tree will do.

The source is the C in ``src``; ``scripts/build-init`` compiles it, without a C library. `wire` is what is said over the
port, `session` the host's side of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

IMAGE: Final = str(Path(__file__).with_name("init.bin"))
"""Path of the program: a static one for x86-64 Linux, the initramfs's ``/init``."""

PORT_NAME: Final = "kvmctl.init.0"
"""What the port is called. The init takes the only one there is; that it has a name is what tells it is ready."""

GROUPS: Final = {
    "boot": ("virtio_pci", "virtio_console"),
    "virtiofs": ("virtiofs",),
    "9p": ("9p", "9pnet_virtio"),
    "overlay": ("overlay",),
    "network": ("virtio_net",),
}
"""Kernel modules by what they are for. The init loads "boot" by itself and the others when they are asked for."""
