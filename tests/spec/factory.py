"""Facts and plans for the tests of specs: one host, one QEMU, each changed by keywords where a test needs it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kvmctl.compile import compile_plan
from kvmctl.plan.facts import Firmware, HostFacts, KvmFacts, MachineType, QemuFacts
from kvmctl.plan.model import Plan
from kvmctl.plan.option import Option
from kvmctl.plan.paths import MachinePaths
from kvmctl.spec.load import parse
from kvmctl.spec.machine import Machine

PATHS = MachinePaths(name="web", run="/run/kvmctl/web", state="/var/lib/kvmctl/machines/web")

NO_KVM = KvmFacts("absent", "there is no /dev/kvm")
KVM = KvmFacts(
    "usable", api_version=12, creates_vm=True, creates_vcpu=True, runs_code=True, cpu_flags=frozenset({"vmx"})
)

VIRTIO = frozenset(
    f"{name}-{suffix}"
    for name in (
        "virtio-blk", "virtio-scsi", "virtio-net", "virtio-serial", "virtio-balloon", "virtio-rng", "virtio-gpu",
        "virtio-tablet", "virtio-keyboard", "virtio-mouse", "vhost-vsock",
    )
    for suffix in ("pci", "device")
)  # fmt: skip
OTHERS = frozenset(
    {
        "scsi-hd", "scsi-cd", "ide-hd", "ide-cd", "nvme", "usb-storage", "floppy", "isa-fdc", "ich9-ahci", "qemu-xhci",
        "pcie-root-port", "isa-serial", "virtconsole", "virtserialport", "e1000e", "e1000", "rtl8139", "pvpanic",
        "pvpanic-pci", "i6300esb", "ib700", "virtio-vga", "VGA", "qxl-vga", "cirrus-vga", "usb-tablet", "usb-kbd",
        "usb-mouse",
    }
)  # fmt: skip
QEMU = QemuFacts(
    path="/usr/bin/qemu-system-x86_64",
    version=(7, 2, 22),
    package="Debian 1:7.2+dfsg-7",
    features=frozenset(),
    machines=(
        MachineType("pc-q35-7.2", "q35", 288),
        MachineType("pc-i440fx-7.2", "pc", 255),
        MachineType("pc-i440fx-1.4", None, 255, deprecated=True),
        MachineType("pc-q35-6.2", None, 288),
        MachineType("microvm", None, 288),
        MachineType("isapc", None, 1),
        MachineType("none", None, 255),
    ),
    devices=VIRTIO | OTHERS,
    cpu_models=frozenset({"host", "max", "qemu64", "EPYC", "EPYC-v4", "Skylake-Client"}),
    accelerators=frozenset({"kvm", "tcg"}),
    firmwares=(
        Firmware(
            descriptor="/usr/share/qemu/firmware/40-edk2-x86_64-secure-enrolled.json",
            code="/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
            code_format="raw",
            vars_template="/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
            vars_format="raw",
            machines=("pc-q35-*",),
            features=("acpi-s3", "enrolled-keys", "requires-smm", "secure-boot"),
        ),
        Firmware(
            descriptor="/usr/share/qemu/firmware/60-edk2-x86_64.json",
            code="/usr/share/OVMF/OVMF_CODE_4M.fd",
            code_format="raw",
            vars_template="/usr/share/OVMF/OVMF_VARS_4M.fd",
            vars_format="raw",
            machines=("pc-i440fx-*", "pc-q35-*"),
            features=("acpi-s3",),
        ),
    ),
)
HOST = HostFacts(NO_KVM, vhost_net=True, vhost_vsock=True, tun=True, cpus=2, memory=8 << 30)


def machine(text: str = "") -> Machine:
    """The machine of a spec in ``/specs/web.toml``."""
    return parse(text, source="web.toml", base="/specs")


def plan(text: str = "", *, host: HostFacts = HOST, qemu: QemuFacts = QEMU, paths: MachinePaths = PATHS) -> Plan:
    """The plan of a spec."""
    return compile_plan(machine(text), host=host, qemu=qemu, paths=paths)


def host(**changes: Any) -> HostFacts:
    """The host of these tests with some facts changed."""
    return replace(HOST, **changes)


def qemu(**changes: Any) -> QemuFacts:
    """The QEMU of these tests with some facts changed."""
    return replace(QEMU, **changes)


def options(made: Plan, flag: str) -> list[Option]:
    """Every ``-flag`` of a plan."""
    return [option for option in made.options if option.flag == flag]


def only(made: Plan, flag: str) -> Option:
    """The one ``-flag`` of a plan."""
    (option,) = options(made, flag)
    return option


def body(made: Plan, flag: str, name: str) -> dict[str, Any]:
    """The body of the option that makes `name` (an id or a node name)."""
    (found,) = [
        option.body for option in options(made, flag) if name in (option.body.get("id"), option.body.get("node-name"))
    ]
    return dict(found)
