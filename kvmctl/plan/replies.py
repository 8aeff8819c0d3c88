"""Raw replies of a QEMU → `QemuFacts`.

What a distribution left out of its build is left out of the facts, whatever the version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from kvmctl.plan.facts import MachineType, QemuFacts
from kvmctl.plan.features import Known, Version, features_of
from kvmctl.plan.schema import Schema

Replies: TypeAlias = Mapping[str, Any]
"""QMP replies as QEMU sent them (``{"return": ...}``), by the name of the question in ``kvmctl.host.qemu.QUERIES``."""

_PARTS: Final[Mapping[str, str]] = {
    "virtio-gpu-pci": "virtio-gpu-device",
    "virtio-vga": "virtio-gpu-device",
    "virtio-gpu-gl-pci": "virtio-gpu-gl-device",
    "virtio-vga-gl": "virtio-gpu-gl-device",
}
"""Devices that make another one inside, in a module of its own. Without that module they are listed all the same, and
making one aborts QEMU ("missing object type"): bookworm's 7.2 has no ``hw-display-virtio-gpu-gl.so``."""


def version_of(reply: Mapping[str, Any]) -> Version:
    """The version in QEMU's greeting or in its reply to ``query-version``, as `Replies` hold it."""
    numbers = reply["qemu"]
    return int(numbers["major"]), int(numbers["minor"]), int(numbers["micro"])


def facts_from_replies(replies: Replies, *, path: str) -> QemuFacts:
    """What the replies of the binary at `path` say of it. Raises ValueError if a reply is missing or an error."""
    types = _names(replies, "devices")
    version = _returned(replies, "version")
    known = Known(
        version=version_of(version),
        schema=Schema.of(_returned(replies, "schema")),
        types=types | _names(replies, "objects"),
        options=_options(_returned(replies, "options")),
    )
    return QemuFacts(
        path=path,
        version=known.version,
        package=version["package"],
        features=features_of(known),
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
