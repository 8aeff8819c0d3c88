"""Raw replies of a QEMU → `QemuFacts`, and the only place that compares QEMU versions.

One rule decides each `Feature`. A rule asks, in this order of trust: the schema of monitor commands (walked from a
command, because introspection masks the names of types), the types QEMU can make, the parameters of command-line
options. What a distribution left out of its build is thereby left out of the facts, whatever the version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from kvmctl.plan.facts import Feature, MachineType, QemuFacts
from kvmctl.plan.schema import Schema

Replies: TypeAlias = Mapping[str, Any]
"""QMP replies as QEMU sent them (``{"return": ...}``), by the name of the question in ``kvmctl.host.qemu.QUERIES``."""

Version: TypeAlias = tuple[int, int, int]

FLOOR: Final[Version] = (7, 2, 0)
"""The oldest QEMU supported; libvirt's floor too."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the rules may ask about."""

    schema: Schema
    types: frozenset[str]
    options: Mapping[str, frozenset[str]]
    """The parameters of each command-line option, as far as QEMU lists them."""


_RULES: Final[Mapping[Feature, Callable[[_Known], bool]]] = {
    Feature.MONITOR_OBJECT: lambda qemu: "monitor-qmp" in qemu.schema.argument_values("object-add", "qom-type"),
    Feature.EXIT_WITH_PARENT: lambda qemu: "exit-with-parent" in qemu.options.get("run-with", ()),
    Feature.STREAM_RECONNECT: lambda qemu: "reconnect" in qemu.schema.argument_members("netdev_add", type="stream"),
    Feature.STREAM_RECONNECT_MS: lambda qemu: (
        "reconnect-ms" in qemu.schema.argument_members("netdev_add", type="stream")
    ),
    Feature.SANDBOX: lambda qemu: "sandbox" in qemu.options,
    Feature.VNC: lambda qemu: qemu.schema.find_command("query-vnc") is not None,
    Feature.TLS: lambda qemu: "tls-creds-x509" in qemu.types,
}

_PARTS: Final[Mapping[str, str]] = {
    "virtio-gpu-pci": "virtio-gpu-device",
    "virtio-vga": "virtio-gpu-device",
    "virtio-gpu-gl-pci": "virtio-gpu-gl-device",
    "virtio-vga-gl": "virtio-gpu-gl-device",
}
"""Devices that make another one inside, in a module of its own. Without that module they are listed all the same, and
making one aborts QEMU ("missing object type"): bookworm's 7.2 has no ``hw-display-virtio-gpu-gl.so``."""


def is_supported(version: Version) -> bool:
    """Whether kvmctl works with a QEMU of that version."""
    return version >= FLOOR


def version_of(reply: Mapping[str, Any]) -> Version:
    """The version in QEMU's greeting or in its reply to ``query-version``, as `Replies` hold it."""
    numbers = reply["qemu"]
    return int(numbers["major"]), int(numbers["minor"]), int(numbers["micro"])


def facts_from_replies(replies: Replies, *, path: str) -> QemuFacts:
    """What the replies of the binary at `path` say of it. Raises ValueError if a reply is missing or an error."""
    types = _names(replies, "devices")
    known = _Known(
        schema=Schema.of(_returned(replies, "schema")),
        types=types | _names(replies, "objects"),
        options=_options(_returned(replies, "options")),
    )
    version = _returned(replies, "version")
    return QemuFacts(
        path=path,
        version=version_of(version),
        package=version["package"],
        features=frozenset(feature for feature, holds in _RULES.items() if holds(known)),
        machines=tuple(sorted(map(_machine, _returned(replies, "machines")), key=lambda machine: machine.name)),
        devices=frozenset(name for name in types if _PARTS.get(name, name) in types and not name.endswith("-cpu")),
        cpu_models=_names(replies, "cpus"),
        accelerators=frozenset(
            name.removesuffix("-accel") for name in _names(replies, "accelerators") if name.endswith("-accel")
        ),
    )


def _returned(replies: Replies, name: str) -> Any:
    reply = replies.get(name, {})
    if "return" not in reply:
        reason = reply.get("error", {}).get("desc", "no reply")
        message = f"QEMU did not tell its {name}: {reason}"
        raise ValueError(message)
    return reply["return"]


def _names(replies: Replies, name: str) -> frozenset[str]:
    return frozenset(item["name"] for item in _returned(replies, name))


def _options(reply: list[dict[str, Any]]) -> dict[str, frozenset[str]]:
    return {item["option"]: frozenset(parameter["name"] for parameter in item["parameters"]) for item in reply}


def _machine(item: Mapping[str, Any]) -> MachineType:
    return MachineType(
        name=item["name"],
        alias=item.get("alias"),
        cpu_max=item["cpu-max"],
        deprecated=item.get("deprecated", False),
    )
