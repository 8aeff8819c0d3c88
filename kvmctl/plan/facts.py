"""What is known of the host and of a QEMU.

Facts of a QEMU come out of its raw replies (``kvmctl.plan.replies``), those of the host are found by
``kvmctl.host.kvm``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

from kvmctl.plan.features import Feature
from kvmctl.plan.guest import Become
from kvmctl.plan.virtiofsd import Virtiofsd


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type of a QEMU: `name` is versioned, `alias` what one usually writes."""

    name: str
    alias: str | None
    cpu_max: int
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Firmware:
    """A UEFI firmware, from a descriptor in ``/usr/share/qemu/firmware`` (QEMU's docs/interop/firmware.json)."""

    descriptor: str
    """The descriptor's path."""
    code: str
    code_format: str
    vars_template: str | None
    vars_format: str
    machines: tuple[str, ...]
    """Glob patterns of machine types, ``pc-q35-*``."""
    features: tuple[str, ...]
    """``secure-boot``, ``enrolled-keys``, ``requires-smm``, ..."""


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """What is known of one QEMU binary."""

    path: str
    version: tuple[int, int, int]
    package: str
    features: frozenset[Feature]
    machines: tuple[MachineType, ...]
    devices: frozenset[str]
    """Every device type it can make, modules that are missing left out."""
    cpu_models: frozenset[str]
    accelerators: frozenset[str] = frozenset({"tcg"})
    firmwares: tuple[Firmware, ...] = ()

    @property
    def version_text(self) -> str:
        """``7.2.22``."""
        return ".".join(str(part) for part in self.version)

    def dumps(self) -> str:
        """The facts of the binary as JSON text, `firmwares` left out: they are no property of it."""
        record = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "firmwares"}
        for name, value in record.items():
            if isinstance(value, frozenset):
                record[name] = sorted(value)
        record["machines"] = [asdict(machine) for machine in self.machines]
        return json.dumps(record)

    @classmethod
    def loads(cls, text: str) -> QemuFacts:
        """The facts that `dumps` wrote. Raises ValueError for anything else."""
        try:
            record = json.loads(text)
            for name in ("devices", "cpu_models", "accelerators"):
                record[name] = frozenset(record[name])
            record["features"] = frozenset(map(Feature, record["features"]))
            record["machines"] = tuple(MachineType(**machine) for machine in record["machines"])
            record["version"] = tuple(record["version"])
            return cls(**record)
        except (AttributeError, KeyError, TypeError) as error:
            message = f"not the facts of a QEMU: {error}"
            raise ValueError(message) from error


@dataclass(frozen=True, slots=True)
class KvmFacts:
    """What ``/dev/kvm`` and the CPU said. `state` is how far opening it came."""

    state: Literal["usable", "absent", "denied", "broken"]
    reason: str = ""
    """Why it is not usable, in words."""
    api_version: int = 0
    capabilities: Mapping[str, int] = field(default_factory=dict)
    creates_vm: bool = False
    creates_vcpu: bool = False
    runs_code: bool = False
    """The self-test's few bytes of real-mode code ran to their end."""
    refused_cpu_features: tuple[str, ...] = ()
    """By QEMU's names: what KVM says guests may be given, and does not let QEMU give them."""
    cpu_flags: frozenset[str] = frozenset()
    """``vmx``, ``svm`` and whatever else /proc/cpuinfo has that matters to virtualisation."""
    module: str = ""
    """``kvm_intel``, ``kvm_amd``, ``kvm_pvm``; empty when built in or unknown."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image that decides what its guest is told, and how."""

    user: str | None = None
    """Whom its publisher lets in."""
    has_cloud_init: bool | None = None
    shell: str | None = None
    """What people there have for a shell; None leaves it to the guest."""
    become: Become = "sudo"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What is known of this host that decides how a machine is compiled."""

    kvm: KvmFacts
    vhost_net: bool = False
    vhost_vsock: bool = False
    tun: bool = False
    cpus: int = 1
    memory: int = 0
    """Bytes."""
    hugepages: Mapping[int, int] = field(default_factory=dict)
    """Free pages by page size in bytes."""
    setpriv: str | None = None
    """Path of util-linux's ``setpriv``, which ties a captive machine to its launcher."""
    images: Mapping[str, ImageFacts] = field(default_factory=dict)
    """Those of the machine's images that are in the store, by name."""
    user: str = "root"
    """The login name of whoever runs kvmctl; empty where there is none."""
    virtiofsd: Virtiofsd = field(default_factory=Virtiofsd)
    """Looked for where a machine shares directories."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which accelerator ``auto`` takes, and why."""

    accel: Literal["kvm", "tcg"]
    reason: str


def choose_accel(kvm: KvmFacts) -> Verdict:
    """What ``accel = "auto"`` chooses: KVM only where an ordinary guest would run.

    A ``/dev/kvm`` that opens is no proof: a KVM on a CPU with neither vmx nor svm exists (module ``kvm_pvm``), where
    firmware runs and an ordinary kernel hangs forever.
    """
    if kvm.state != "usable":
        return Verdict("tcg", kvm.reason or f"/dev/kvm is {kvm.state}")
    if kvm.api_version != 12:
        return Verdict("tcg", f"/dev/kvm speaks API version {kvm.api_version}, not 12")
    if not (kvm.creates_vm and kvm.creates_vcpu):
        return Verdict("tcg", kvm.reason or "/dev/kvm opens but can't create a VM with a vCPU")
    if not kvm.cpu_flags & {"vmx", "svm"}:
        module = f" (module {kvm.module})" if kvm.module else ""
        return Verdict(
            "tcg",
            f"/dev/kvm answers{module}, but the CPU shows neither vmx nor svm: "
            "firmware runs there and an ordinary kernel hangs",
        )
    return Verdict("kvm", "/dev/kvm is usable and the CPU has " + ("vmx" if "vmx" in kvm.cpu_flags else "svm"))
