"""The machine: the whole of a spec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from posixpath import basename, splitext
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo

from kvmctl.errors import Problem
from kvmctl.spec import boot as booting
from kvmctl.spec.boot import Boot
from kvmctl.spec.clock import Clock
from kvmctl.spec.cpu import Cpu
from kvmctl.spec.credentials import Credentials
from kvmctl.spec.devices import Devices, share
from kvmctl.spec.firmware import Firmware
from kvmctl.spec.guest import Guest
from kvmctl.spec.hostpath import anchor_path, base_of
from kvmctl.spec.ids import ids_problems
from kvmctl.spec.memory import Memory
from kvmctl.spec.model import AlsoTakes, Bool, Int, Model, Str, Switch, table_of
from kvmctl.spec.smbios import Smbios
from kvmctl.spec.units import SIZE_FORMS, Line, MachineName, Uuid, has_control_characters


def _parse_qemu(value: Any, info: ValidationInfo) -> str:
    """A program's name has no slash and is left to PATH; a path counts from the spec like every other."""
    is_name = isinstance(value, str) and value and "/" not in value and not has_control_characters(value)
    return value if is_name else anchor_path(value, base_of(info))


class Pci(Model):
    """The PCI buses."""

    spare_root_ports: Int | None = Field(
        default=None,
        ge=0,
        le=32,
        description="Empty pcie-root-ports on q35, one for each device plugged in while it runs; 4 unless given.",
    )


def stem_of(source: str) -> str:
    """A file's name without its directory and suffix."""
    return splitext(basename(source))[0]


class Machine(Devices):
    """A machine: what to run, in QEMU's and libvirt's own words."""

    name: MachineName = Field(default="machine", description="The machine's name; the file's unless given.")
    uuid: Uuid | None = Field(default=None, description="The machine's UUID; derived from its name unless given.")
    description: Line = Field(default="", max_length=1024, description="A line about the machine, for people.")
    machine: Str = Field(
        default="q35",
        min_length=1,
        description="'q35', 'pc', 'microvm', or a version of them ('pc-q35-7.2'); pinned when first started.",
    )
    accel: Literal["auto", "kvm", "tcg"] = Field(
        default="auto",
        description="'auto' takes KVM where an ordinary guest would run and TCG elsewhere; 'kvm' is obeyed or refused.",
    )
    qemu: Annotated[str, BeforeValidator(_parse_qemu)] | None = Field(
        default=None,
        description="The QEMU to run: a path, or a program's name to be found on PATH. Unless given, the one that "
        "KVMCTL_QEMU names or the distribution installed.",
    )
    acpi: Bool = Field(default=True, description="ACPI: the power button, and most ways of plugging.")
    cpus: Int = Field(default=1, ge=1, le=4096, description="CPUs at boot.")
    cpu: Cpu = Field(default={}, validate_default=True, description="The CPUs' model and topology.")
    memory: Annotated[Memory, table_of("size", str, int, kind="a size"), AlsoTakes(SIZE_FORMS)] = Field(
        default={}, validate_default=True, description="The memory: its size ('2GiB'), or a table of more."
    )
    firmware: Firmware = Field(
        default="bios",
        description="'bios', 'uefi', 'uefi-secure' (enforcing, with the usual keys), the name of a ROM that comes with "
        "QEMU ('qboot.rom'), or a path to one.",
    )
    boot: Boot = Field(default={}, validate_default=True, description="What is started, and in which order.")
    clock: Clock = Field(default={}, validate_default=True, description="The clock.")
    smbios: Smbios = Field(
        default={}, validate_default=True, description="What the guest reads of its hardware's maker."
    )
    credentials: Credentials = Field(
        default_factory=dict, description="systemd credentials by name: text, or { file = ... } or { env = ... }."
    )
    guest: Switch[Guest] = Field(
        default=None,
        description="What the guest is told at its first boot: its name, users, network, files, commands; true tells "
        "it the usual. The guest needs cloud-init for that, or systemd 252.",
    )
    pci: Pci = Field(default={}, validate_default=True, description="The PCI buses: what is kept free on them.")
    on_poweroff: Literal["poweroff", "pause"] = Field(
        default="poweroff", description="When the guest powers off: QEMU ends, or stays paused to be looked at."
    )
    on_reboot: Literal["reset", "shutdown"] = Field(
        default="reset", description="When the guest reboots: it does, or that ends the machine."
    )
    on_crash: Literal["pause", "shutdown", "exit-failure", "none"] = Field(
        default="shutdown", description="When the panic device reports a crash: QEMU's word for what it does then."
    )
    sandbox: Bool = Field(default=True, description="Run QEMU under its seccomp filter.")
    extra_args: tuple[Line, ...] = Field(
        default=(), description="Arguments for QEMU that kvmctl has no key for: kept, in order, at the end."
    )

    _source: str = PrivateAttr(default="<python>")

    @property
    def source(self) -> str:
        """The file the machine was read from."""
        return self._source

    def contradictions(self) -> Iterator[Problem]:
        """What is wrong among the tables."""
        yield from self.cpu.topology_problems(self.cpus)
        yield from booting.order_problems(self.boot, self)
        yield from ids_problems(self)
        yield from share.twins(self.shares)
        yield from self._twins()
        yield from self._stray_arguments()

    def _twins(self) -> Iterator[Problem]:
        macs = {f"networks[{index}].mac": network.mac for index, network in enumerate(self.networks) if network.mac}
        counts = Counter(macs.values())
        for key, mac in macs.items():
            if counts[mac] > 1:
                yield Problem(key, "two cards have this address", f"'{mac}'", "another one")

    def _stray_arguments(self) -> Iterator[Problem]:
        """QEMU takes an argument that belongs to no option for a disk image, which nobody means."""
        is_value = False
        for index, argument in enumerate(self.extra_args):
            if argument.startswith("-"):
                is_value = True
            elif is_value:
                is_value = False
            else:
                yield Problem(
                    f"extra_args[{index}]", "belongs to no option", f"'{argument}'", "an argument after '-OPTION'"
                )
