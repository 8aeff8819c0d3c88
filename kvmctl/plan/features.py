"""What tells one QEMU from another: one `Feature` and one rule for each, and the only place that compares versions.

A rule asks, in this order of trust: the schema of monitor commands (walked from a command, because introspection masks
the names of types), the types QEMU can make, the parameters of command-line options, and its version last of all.
Everywhere else the only legal question is ``Feature.X in facts.features``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from kvmctl.plan.schema import Schema

Version: TypeAlias = tuple[int, int, int]

FLOOR: Final[Version] = (7, 2, 0)
"""The oldest QEMU supported; libvirt's floor too."""


class Feature(StrEnum):
    """What a QEMU can do that another supported one can't."""

    MONITOR_OBJECT = "monitor-object"
    """``-object monitor-qmp`` instead of the deprecated ``-mon`` (11.1)."""
    EXIT_WITH_PARENT = "exit-with-parent"
    """``-run-with exit-with-parent=on`` (10.2)."""
    STREAM_RECONNECT = "stream-reconnect"
    """``-netdev stream,reconnect=SECONDS`` (8.0; 10.2 removed it)."""
    STREAM_RECONNECT_MS = "stream-reconnect-ms"
    """``-netdev stream,reconnect-ms=MILLISECONDS`` (9.2)."""
    SANDBOX = "sandbox"
    """``-sandbox``: built with seccomp."""
    VNC = "vnc"
    """``-vnc``: built with the VNC server."""
    TLS = "tls"
    """``tls-creds-x509``: built with GnuTLS."""
    MMIO_IOTHREAD = "mmio-iothread"
    """I/O threads behind virtio-mmio without KVM (8.2, since QEMU takes ioeventfds for granted)."""
    MIGRATE_FILE = "migrate-file"
    """``file:`` as the place of a migration (8.2); 11.0 takes plain files in no other way."""
    READONLY_MEMORY = "readonly-memory"
    """``memory-backend-file,readonly=on,rom=off``: memory that is written, on a file that is not (8.2)."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the rules may ask about: a QEMU's own words, made easy to search."""

    version: Version
    schema: Schema
    types: frozenset[str]
    options: Mapping[str, frozenset[str]]
    """The parameters of each command-line option, as far as QEMU lists them."""


_RULES: Final[Mapping[Feature, Callable[[Known], bool]]] = {
    Feature.MONITOR_OBJECT: lambda qemu: "monitor-qmp" in qemu.schema.argument_values("object-add", "qom-type"),
    Feature.EXIT_WITH_PARENT: lambda qemu: "exit-with-parent" in qemu.options.get("run-with", ()),
    Feature.STREAM_RECONNECT: lambda qemu: "reconnect" in qemu.schema.argument_members("netdev_add", type="stream"),
    Feature.STREAM_RECONNECT_MS: lambda qemu: (
        "reconnect-ms" in qemu.schema.argument_members("netdev_add", type="stream")
    ),
    Feature.SANDBOX: lambda qemu: "sandbox" in qemu.options,
    Feature.VNC: lambda qemu: qemu.schema.find_command("query-vnc") is not None,
    Feature.TLS: lambda qemu: "tls-creds-x509" in qemu.types,
    Feature.MIGRATE_FILE: lambda qemu: "file" in qemu.schema.values_below("migrate", "channels", "addr", "transport"),
    Feature.READONLY_MEMORY: lambda qemu: (
        "rom" in qemu.schema.argument_members("object-add", **{"qom-type": "memory-backend-file"})
    ),
    # Nothing that a QEMU can be asked tells this: 7.2 says "ioeventfd is required for iothread" when it is too late.
    Feature.MMIO_IOTHREAD: lambda qemu: qemu.version >= (8, 2, 0),
}


def is_supported(version: Version) -> bool:
    """Whether kvmctl works with a QEMU of that version."""
    return version >= FLOOR


def features_of(known: Known) -> frozenset[Feature]:
    """Every feature whose rule holds."""
    return frozenset(feature for feature, holds in _RULES.items() if holds(known))
