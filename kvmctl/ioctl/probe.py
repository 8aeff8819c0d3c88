"""``/dev/kvm`` itself: does it open, what can it do, does it run code. What every start of a machine asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmctl.ioctl import abi, words
from kvmctl.ioctl.cpuid import named_bits
from kvmctl.ioctl.device import Kvm
from kvmctl.ioctl.handle import Ioctl, IoctlFailed, system_ioctl
from kvmctl.ioctl.nodes import State, open_failure
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
    errno: int = 0
    """The kernel's reason where it could not be opened."""


def probe_device(path: str = "/dev/kvm", *, ioctl: Ioctl = system_ioctl) -> Device:
    """Open KVM, ask for its capabilities and run the self-test: about 2 ms."""
    try:
        kvm = Kvm.open(path, ioctl=ioctl)
    except OSError as error:
        state, reason = open_failure(path, error)
        return Device(path, state, reason, errno=error.errno or 0)
    with kvm:
        return _examine(kvm, path)


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
