"""What a survey of a host found: frozen values that survive a JSON round trip, so that a host can be recorded in a bug
report and diagnosed somewhere else. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from kvmctl.ioctl.inventory import Inventory

FORMAT: Final = 1
"""Raised when an older kvmctl would misread a recorded survey."""


@dataclass(frozen=True, slots=True)
class System:
    """The kernel, the distribution, and what surrounds them."""

    kernel: str
    machine: str
    """The architecture: ``x86_64``."""
    distribution: str = ""
    """As it calls itself: ``Debian GNU/Linux 12 (bookworm)``."""
    family: str = ""
    """Whose packages it takes: ``debian``, ``fedora``, ``arch``, or its own id."""
    container: str = ""
    """``docker``, ``podman``, ``lxc``, ...; empty where there is none that keeps devices away."""
    kvm_on_disk: tuple[str, ...] = ()
    """KVM's modules that could be loaded, or are built in: ``kvm_intel``, ``kvm_amd``."""


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    uid: int
    groups: tuple[str, ...] = ()
    """The groups this process has."""
    member_of: tuple[str, ...] = ()
    """The groups the next login will have."""
    makes_networks: bool = False
    """CAP_NET_ADMIN is effective."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """Whose a device node is; `mode` as ``ls`` would have it in octal, ``0660``."""

    owner: str
    group: str
    mode: str


@dataclass(frozen=True, slots=True)
class FirmwareSwitch:
    """What is known of the firmware's switch for virtualisation."""

    log: tuple[str, ...] = ()
    """The kernel's own words about it."""
    is_log_readable: bool = False
    register: Literal["on", "off", "unknown"] = "unknown"
    """From the CPU's own register, where ``/dev/cpu/0/msr`` can be read."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    total: int
    available: int
    limit: int | None = None
    """The least limit that the control groups of this process set."""


@dataclass(frozen=True, slots=True)
class HugePages:
    """A pool of huge pages: `size` in bytes, the rest in pages."""

    size: int
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Ksm:
    """Same-page merging: whether the kernel looks for equal pages, and how many bytes it saves now."""

    is_running: bool
    saved: int


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Control groups: their version, and the controllers this process's group can have."""

    version: Literal["v1", "v2", "none"] = "none"
    controllers: tuple[str, ...] = ()
    is_writable: bool = False
    """Whether this user may make groups below the present one."""


@dataclass(frozen=True, slots=True)
class Iommu:
    """IOMMU groups, and the devices in them."""

    groups: int = 0
    devices: int = 0


@dataclass(frozen=True, slots=True)
class Qemu:
    """The QEMU that machines would run on, or why there is none."""

    path: str = ""
    origin: str = ""
    """What named it: ``KVMCTL_QEMU`` or ``PATH``."""
    state: Literal["usable", "missing", "too old", "broken"] = "missing"
    reason: str = ""
    detail: str = ""
    """Its own words, where it is broken."""
    version: str = ""
    package: str = ""
    features: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    machines: int = 0
    devices: int = 0
    cpu_models: int = 0
    missing_devices: tuple[str, ...] = ()
    """Devices that kvmctl offers and this build does not have."""
    firmwares: tuple[str, ...] = ()
    """UEFI descriptors found beside it."""
    has_secure_boot: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeDir:
    """Where running machines keep their sockets."""

    path: str
    is_volatile: bool = False
    """It belongs to the login session and goes with it."""
    lingers: bool = False
    """The session's directories stay after logout (``loginctl enable-linger``)."""
    is_writable: bool = True
    """This user may write there, or make it."""


@dataclass(frozen=True, slots=True)
class Survey:
    """All of it."""

    system: System
    user: User
    inventory: Inventory
    memory: Memory
    qemu: Qemu
    runtime: RuntimeDir
    kvm_node: Permissions | None = None
    """Whose ``/dev/kvm`` is; None where there is none."""
    switch: FirmwareSwitch = field(default_factory=FirmwareSwitch)
    hugepages: tuple[HugePages, ...] = ()
    transparent_hugepages: str = ""
    """``always``, ``madvise``, ``never``; empty when the kernel has none."""
    ksm: Ksm | None = None
    cgroups: Cgroups = field(default_factory=Cgroups)
    iommu: Iommu = field(default_factory=Iommu)
    programs: Mapping[str, str | None] = field(default_factory=dict)
    """Where each helper program is; None for those that are missing."""
    virtiofsd_problem: str = ""
    """Why the virtiofsd that is there does not work; empty where it does, or there is none."""
    format: int = FORMAT

    def dumps(self) -> str:
        """The survey as JSON text; `loads` reads it back."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def loads(cls, text: str) -> Survey:
        """The survey that `dumps` wrote; what was left out has its default. Raises ValueError for anything else."""
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            message = f"not a survey of format {FORMAT}"
            raise ValueError(message)
        try:
            survey = _build(cls, record)
        except (TypeError, AttributeError) as error:
            message = f"not a survey: {error}"
            raise ValueError(message) from error
        assert isinstance(survey, cls)  # noqa: S101  # what _build makes of cls
        return survey


def _build(kind: Any, value: Any) -> Any:
    """`value`, which came from JSON, as the type `kind`: a dataclass, a tuple, a mapping, an optional, or as it is."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if unknown := value.keys() - {item.name for item in fields(kind)}:
            message = f"{kind} has no {', '.join(sorted(unknown))}"
            raise TypeError(message)
        return kind(**{name: _build(hints[name], item) for name, item in value.items()})  # type: ignore[operator]
    match get_origin(kind), get_args(kind):
        case origin, (item, _) if origin is tuple:
            return tuple(_build(item, each) for each in value)
        case origin, (_, item) if origin is Mapping:
            return {key: _build(item, each) for key, each in value.items()}
        case _, (item, optional) if optional is NoneType:
            return None if value is None else _build(item, value)
        case _:
            return value
