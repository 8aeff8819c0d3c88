"""What the guest reads of its hardware's maker: the SMBIOS tables (DMTF DSP0134), as far as QEMU fills them in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from kvmctl.errors import Problem
from kvmctl.plan.option import Option, keyvals
from kvmctl.spec.context import Context, Lowered
from kvmctl.spec.model import Bool, Model
from kvmctl.spec.units import Line


class _Table(Model):
    """One structure of the tables; what is not given is QEMU's."""

    number: ClassVar[int]
    """Its type in the standard."""


class BiosTable(_Table):
    """The firmware's own description."""

    number: ClassVar[int] = 0

    vendor: Line | None = Field(default=None, description="Who made the firmware.")
    version: Line | None = Field(default=None, description="The firmware's version.")
    date: Line | None = Field(default=None, description="The firmware's date, 'mm/dd/yyyy'.")
    release: Line | None = Field(default=None, description="The firmware's release, 'major.minor'.")
    uefi: Bool | None = Field(default=None, description="Whether the firmware says that it is a UEFI.")


class SystemTable(_Table):
    """The system's description; its UUID is the machine's."""

    number: ClassVar[int] = 1

    manufacturer: Line | None = Field(default=None, description="Who made the system.")
    product: Line | None = Field(default=None, description="What it is called.")
    version: Line | None = Field(default=None, description="Its version.")
    serial: Line | None = Field(default=None, description="Its serial number; cloud-init reads 'ds=nocloud;...' here.")
    sku: Line | None = Field(default=None, description="Its stock keeping unit.")
    family: Line | None = Field(default=None, description="The family it belongs to.")


class BaseboardTable(_Table):
    """The main board's description."""

    number: ClassVar[int] = 2

    manufacturer: Line | None = Field(default=None, description="Who made the board.")
    product: Line | None = Field(default=None, description="What it is called.")
    version: Line | None = Field(default=None, description="Its version.")
    serial: Line | None = Field(default=None, description="Its serial number.")
    asset: Line | None = Field(default=None, description="Its asset tag.")
    location: Line | None = Field(default=None, description="Where in the chassis it sits.")


class ChassisTable(_Table):
    """The case's description."""

    number: ClassVar[int] = 3

    manufacturer: Line | None = Field(default=None, description="Who made the case.")
    version: Line | None = Field(default=None, description="Its version.")
    serial: Line | None = Field(default=None, description="Its serial number.")
    asset: Line | None = Field(default=None, description="Its asset tag.")
    sku: Line | None = Field(default=None, description="Its stock keeping unit.")


class Smbios(Model):
    """The tables."""

    bios: BiosTable | None = Field(default=None, description="The firmware (type 0).")
    system: SystemTable | None = Field(default=None, description="The system (type 1).")
    baseboard: BaseboardTable | None = Field(default=None, description="The main board (type 2).")
    chassis: ChassisTable | None = Field(default=None, description="The case (type 3).")
    oem_strings: tuple[Line, ...] = Field(default=(), description="Free text for programs in the guest (type 11).")


def lower(smbios: Smbios, ctx: Context) -> Lowered:
    """``-smbios``, once a table and once a string."""
    options = tuple(_options(smbios))
    if options and ctx.platform == "microvm":
        return Lowered(problems=(Problem("smbios", "a microvm has no SMBIOS tables", allowed="machine = 'q35'"),))
    return Lowered(options=options)


def _options(smbios: Smbios) -> Iterator[Option]:
    for key in ("bios", "system", "baseboard", "chassis"):
        table = getattr(smbios, key)
        if isinstance(table, _Table):
            body = {name: value for name, value in table if value is not None}
            yield keyvals("smbios", None, {"type": table.number, **body}, why=f"smbios.{key}")
    for index, string in enumerate(smbios.oem_strings):
        yield oem_string(string, why=f"smbios.oem_strings[{index}]")


def oem_string(value: str, *, why: str) -> Option:
    """One string of type 11; QEMU gathers them in order."""
    return keyvals("smbios", None, {"type": 11, "value": value}, why=why)
