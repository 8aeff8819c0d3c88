"""Everything KVM has to say on this host, asked once and kept as plain values that go into JSON as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kvmctl.ioctl import abi, cpuid, kernel, nodes, words
from kvmctl.ioctl.cpuid import CpuidEntry, named_bits
from kvmctl.ioctl.device import Kvm
from kvmctl.ioctl.handle import Ioctl, IoctlFailed, system_ioctl
from kvmctl.ioctl.kernel import Cpu
from kvmctl.ioctl.nodes import Node, State
from kvmctl.ioctl.selftest import SelfTest, self_test


@dataclass(frozen=True, slots=True)
class Device:
    """``/dev/kvm`` as far as it let itself be asked. `state` is ``usable`` when the self-test passed."""

    path: str
    state: State
    reason: str = ""
    api_version: int = 0
    capabilities: Mapping[str, int] = field(default_factory=dict)
    """By the names of `Cap`, those only that the kernel has."""
    vm_types: tuple[str, ...] = ()
    """``default``, and where memory can be encrypted ``sev``, ``sev-es``, ``sev-snp``, ``tdx``."""
    self_test: SelfTest = field(default_factory=SelfTest)


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
    kvm, guests = probe_kvm(str(dev / "kvm"), ioctl=ioctl)
    return Inventory(
        kvm=kvm,
        guests=guests,
        cpu=kernel.read_cpu(root),
        modules=kernel.read_modules(root),
        vhost_net=nodes.probe_vhost(str(dev / "vhost-net"), ioctl=ioctl),
        vhost_vsock=nodes.probe_vhost(str(dev / "vhost-vsock"), ioctl=ioctl),
        tun=nodes.probe_tun(str(dev / "net/tun"), ioctl=ioctl),
    )


def probe_device(path: str = "/dev/kvm", *, ioctl: Ioctl = system_ioctl) -> Device:
    """What `take` finds of KVM itself, without what it gives to guests."""
    return probe_kvm(path, ioctl=ioctl)[0]


def probe_kvm(path: str = "/dev/kvm", *, ioctl: Ioctl = system_ioctl) -> tuple[Device, Guests]:
    """Open KVM, test it, and ask what it gives to guests."""
    try:
        kvm = Kvm.open(path, ioctl=ioctl)
    except OSError as error:
        state, reason = nodes.open_failure(path, error)
        return Device(path, state, reason), Guests()
    with kvm:
        device = _examine(kvm, path)
        return device, _guests(kvm) if device.api_version == abi.API_VERSION else Guests()


def _examine(kvm: Kvm, path: str) -> Device:
    try:
        version = kvm.api_version()
        if version != abi.API_VERSION:
            reason = f"{path} speaks API version {version}, not {abi.API_VERSION}"
            return Device(path, "broken", reason, version)
        capabilities = {cap.name: value for cap, value in kvm.capabilities().items()}
    except IoctlFailed as error:
        return Device(path, "broken", f"{path} opens, but is no KVM: {error}")
    test = self_test(kvm)
    types = named_bits(capabilities.get("VM_TYPES", 1), words.VM_TYPES)
    return Device(path, "usable" if test.runs_code else "broken", test.reason, version, capabilities, types, test)


def _guests(kvm: Kvm) -> Guests:
    try:
        entries, msrs = kvm.supported_cpuid(), kvm.feature_msrs()
    except IoctlFailed:
        # Another architecture, or a kernel from before these requests.
        return Guests()
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
