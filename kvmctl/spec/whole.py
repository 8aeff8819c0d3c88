"""The machine's own options, which are no device's: who it is, what it runs on, and what happens at its end."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from itertools import pairwise
from typing import Final

from kvmctl.plan.features import Feature
from kvmctl.plan.option import Option, Parameter, bare, gathered, keyval, text
from kvmctl.spec import process
from kvmctl.spec.context import Context, Lowered
from kvmctl.spec.machine import Machine, Pci
from kvmctl.spec.model import why
from kvmctl.spec.place import spare_ports

_NAMESPACE: Final = bytes.fromhex("9a05ae073ba4cfb6d157e6148cd852ea")
"""kvmctl's own namespace for UUIDs made from names (RFC 9562, version 5)."""
_SPARE_PORTS: Final = 4


def derived_uuid(name: str) -> str:
    """The UUID of a machine whose spec gives none: always the same one for a name."""
    digest = bytearray(sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    digits = digest.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def uuid_of(machine: Machine, name: str) -> str:
    """The UUID of `machine`, called `name`."""
    return machine.uuid or derived_uuid(name)


def head(machine: Machine, ctx: Context, body: Lowered) -> Iterator[Option]:
    """Who the machine is and what it runs on."""
    yield from process.first()
    yield keyval("name", guest=ctx.name, debug_threads=True, why=_name_why(machine, ctx))
    yield text(
        "uuid",
        uuid_of(machine, ctx.name),
        why=why(machine, "uuid", "uuid", default="derived from the name, so always the same"),
    )
    pinned = why(machine, "machine", "machine", default="q35, pinned to the version that is started first")
    yield gathered("machine", _machine_parameters(machine, body), lead=ctx.machine_type, why=pinned)
    accel = why(machine, "accel", "accel", default=ctx.accel_reason)
    yield bare("enable-kvm", why=accel) if ctx.accel == "kvm" else keyval("accel", "tcg", why=accel)
    if ctx.platform == "microvm":
        # Its buses speak virtio 0.9 unless told, which graphics and input devices and their drivers never learnt.
        today = "default: today's virtio, as on other machines"
        yield keyval("global", driver="virtio-mmio", property="force-legacy", value=False, why=today)


def _name_why(machine: Machine, ctx: Context) -> str:
    if ctx.name != machine.name:
        return "default: the name it is started under"
    return why(machine, "name", "name", default="the file's name")


def _machine_parameters(machine: Machine, body: Lowered) -> dict[str, Parameter]:
    acpi = why(machine, "acpi", "acpi", default="the power button, and most ways of plugging")
    return {
        "usb": Parameter(value=False, why="default: what needs a USB controller brings one"),
        "acpi": Parameter(machine.acpi, acpi),
        "dump-guest-core": Parameter(value=False, why="default: a core dump is no place for the guest's memory"),
        **dict(body.machine),
    }


def tail(machine: Machine, ctx: Context) -> Iterator[Option]:
    """What happens at the end, how QEMU runs, and what kvmctl has no key for."""
    yield gathered("action", dict(_events(machine)))
    reason = why(machine, "sandbox", "sandbox", default="QEMU needs to start no program and gain no privilege")
    yield from process.last(sandbox=machine.sandbox and Feature.SANDBOX in ctx.qemu.features, sandbox_why=reason)
    yield from _extra(machine.extra_args)


def _events(machine: Machine) -> Iterator[tuple[str, Parameter]]:
    """What QEMU does when something happens to the guest."""
    for event, key, default in (
        ("reboot", "on_reboot", "a guest that reboots goes on"),
        ("shutdown", "on_poweroff", "a guest that is done ends its QEMU"),
        ("panic", "on_crash", "a guest that has crashed ends its QEMU"),
    ):
        yield event, Parameter(getattr(machine, key), why(machine, key, key, default=default))
    if machine.watchdog is not None:
        reason = why(machine.watchdog, "action", "watchdog.action", default="a guest that hangs starts anew")
        yield "watchdog", Parameter(machine.watchdog.action, reason)


def _extra(arguments: tuple[str, ...]) -> Iterator[Option]:
    """Each option with the argument that follows it, if one does."""
    words = [*arguments, "-"]
    for index, (word, after) in enumerate(pairwise(words)):
        if word.startswith("-"):
            key = f"extra_args[{index}]"
            yield bare(word[1:], why=key) if after.startswith("-") else text(word[1:], after, why=key)


def spares(pci: Pci) -> tuple[Option, ...]:
    """The root ports that are kept free."""
    reason = why(pci, "spare_root_ports", "pci.spare_root_ports", default="for what is plugged in while it runs")
    count = _SPARE_PORTS if pci.spare_root_ports is None else pci.spare_root_ports
    return spare_ports(count, why=reason)
