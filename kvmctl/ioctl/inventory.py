"""Everything KVM has to say on this host, asked once and kept as plain values that go into JSON as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kvmctl.ioctl import cpuid, kernel, nodes
from kvmctl.ioctl.cpuid import CpuidEntry
from kvmctl.ioctl.device import Kvm
from kvmctl.ioctl.handle import Ioctl, system_ioctl
from kvmctl.ioctl.kernel import Cpu
from kvmctl.ioctl.nodes import Node
from kvmctl.ioctl.probe import Device, probe_device


@dataclass(frozen=True, slots=True)
class Guests:
    """What KVM can give to guests, x86 only."""

    features: tuple[str, ...] = ()
    """From CPUID, by QEMU's names."""
    msr_features: tuple[str, ...] = ()
    """From the feature registers."""
    vendor: str = ""
    signature: str = ""
    """How the hypervisor will call itself: ``KVMKVMKVM``."""
    physical_bits: int = 0
    """Of a guest's physical addresses."""
    virtual_bits: int = 0
    cpuid: tuple[CpuidEntry, ...] = ()
    """The words as the kernel gave them."""
    msrs: Mapping[str, int] = field(default_factory=dict)
    """The registers by their numbers in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of it, with the neighbours that a launcher asks in the same breath."""

    kvm: Device
    vhost_net: Node
    vhost_vsock: Node
    tun: Node
    guests: Guests = field(default_factory=Guests)
    cpu: Cpu = field(default_factory=Cpu)
    modules: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """KVM's modules and their parameters."""


def take(root: Path = kernel.ROOT, *, ioctl: Ioctl = system_ioctl) -> Inventory:
    """Ask everything; never raises for what a host lacks. A few milliseconds."""
    dev = root / "dev"
    path = str(dev / "kvm")
    return Inventory(
        kvm=probe_device(path, ioctl=ioctl),
        vhost_net=nodes.probe_vhost(str(dev / "vhost-net"), ioctl=ioctl),
        vhost_vsock=nodes.probe_vhost(str(dev / "vhost-vsock"), ioctl=ioctl),
        tun=nodes.probe_tun(str(dev / "net/tun"), ioctl=ioctl),
        guests=probe_guests(path, ioctl=ioctl),
        cpu=kernel.read_cpu(root),
        modules=kernel.read_modules(root),
    )


def probe_guests(path: str = "/dev/kvm", *, ioctl: Ioctl = system_ioctl) -> Guests:
    """Ask what KVM gives to guests; nothing where it can't be asked, or the CPU is no x86."""
    try:
        with Kvm.open(path, ioctl=ioctl) as kvm:
            return _describe(kvm.supported_cpuid(), kvm.feature_msrs())
    except OSError:
        return Guests()


def _describe(entries: tuple[CpuidEntry, ...], msrs: Mapping[int, int]) -> Guests:
    physical, virtual = cpuid.address_bits(entries)
    return Guests(
        features=tuple(sorted(cpuid.features(entries))),
        msr_features=tuple(sorted(cpuid.msr_features(msrs))),
        vendor=cpuid.vendor(entries),
        signature=cpuid.hypervisor(entries),
        physical_bits=physical,
        virtual_bits=virtual,
        cpuid=entries,
        msrs={f"{index:#x}": value for index, value in msrs.items()},
    )
