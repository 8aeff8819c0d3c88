"""Reading the firmware descriptors that distributions install beside QEMU.

The directories, their order, and the format are those of QEMU's docs/interop/firmware.json.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvmctl.host.identity import FIRMWARE_DIRECTORIES, firmware_directories
from kvmctl.plan.facts import Firmware

_log = logging.getLogger(__name__)


def load_firmwares(
    env: Mapping[str, str], *, directories: tuple[str, ...] = FIRMWARE_DIRECTORIES
) -> tuple[Firmware, ...]:
    """The UEFI firmwares for x86_64 that can be used as a pflash pair (or code alone), best first.

    A file hides those of the same name in the directories before; an empty one only hides. A descriptor that can't be
    read is left out and logged.
    """
    descriptors: dict[str, Path] = {}
    for directory in map(Path, firmware_directories(env, of_all=directories)):
        descriptors |= {path.name: path for path in directory.glob("*.json")}
    loaded = [_load_firmware(path) for _, path in sorted(descriptors.items())]
    return tuple(firmware for firmware in loaded if firmware)


def _load_firmware(path: Path) -> Firmware | None:
    try:
        text = path.read_text(encoding="utf-8")
        return parse_descriptor(json.loads(text), path=str(path)) if text.strip() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("firmware descriptor %s is left out: %s: %s", path, type(error).__name__, error)
        return None


def parse_descriptor(record: Mapping[str, Any], *, path: str) -> Firmware | None:
    """The firmware a descriptor describes; None if it is no UEFI for x86_64, or no flash that leaves its code alone."""
    mapping = record["mapping"]
    machines = [
        pattern for target in record["targets"] if target["architecture"] == "x86_64" for pattern in target["machines"]
    ]
    # "combined" keeps variables within the code, so that every machine would need a copy of the firmware.
    is_flash = mapping["device"] == "flash" and mapping.get("mode", "split") != "combined"
    if "uefi" not in record["interface-types"] or not is_flash or not machines:
        return None
    template = mapping.get("nvram-template")
    return Firmware(
        descriptor=path,
        code=mapping["executable"]["filename"],
        code_format=mapping["executable"]["format"],
        vars_template=template["filename"] if template else None,
        vars_format=template["format"] if template else "raw",
        machines=tuple(machines),
        features=tuple(record["features"]),
    )
