"""The ids of devices: those a spec gives, those it leaves to kvmctl, and those that are kvmctl's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from kvmctl.errors import Problem
from kvmctl.spec.devices import Devices

_OWN: Final = (
    r"agent|ahci|balloon|channels|console|fdc|iothread-.*|input\d+|journal|mon-.*|panic|pflash.*|private|qmp|ram|resident|rng.*"
    r"|scsi(-.*)?|seed|share\d+|spare\d+|transfer|usb|video|vnc.*|vsock|watchdog|.*-(file|netdev|port|tap\d+|vhost\d+)"
)
"""Ids, node names and sockets of the devices that a spec does not name, and what is made from the names it gives."""


def ids_problems(devices: Devices) -> Iterator[Problem]:
    """Ids that two devices have, or that kvmctl uses itself."""
    places: dict[str, str] = {}
    for key, name, is_given in _names(devices):
        if is_given and re.fullmatch(_OWN, name):
            yield Problem(f"{key}.id", "is an id that kvmctl uses itself", f"'{name}'", "another one")
        elif name in places:
            yield Problem(f"{key}.id", f"is the id of {places[name]} too", f"'{name}'", "another one")
        places[name] = key


def _names(devices: Devices) -> Iterator[tuple[str, str, bool]]:
    """Key and id of every device that can be given one; those that are come last, for they are to blame."""
    named = [
        (f"{field}[{index}]", device.device_id(index), device.id is not None)
        for field in ("networks", "disks", "serials", "consoles", "channels")
        for index, device in enumerate(getattr(devices, field))
    ]
    yield from sorted(named, key=lambda item: item[2])
