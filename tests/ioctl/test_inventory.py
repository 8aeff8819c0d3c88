"""The inventory as a whole, its text, and ``python -m kvmctl.ioctl``."""

from __future__ import annotations

import ast
import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvmctl import ioctl
from kvmctl.ioctl import abi
from kvmctl.ioctl.cpuid import CpuidEntry
from kvmctl.ioctl.inventory import probe_guests, take
from kvmctl.ioctl.probe import probe_device
from kvmctl.ioctl.report import render
from kvmctl.testing.fakekvm import FakeKvm


def host_with(fake: FakeKvm, root: Path) -> Path:
    """A file system whose /dev/kvm is the fake's."""
    (root / "dev").mkdir()
    (root / "dev/kvm").symlink_to(fake.path)
    return root


def test_a_host_without_anything_is_told_in_full(tmp_path: Path) -> None:
    inventory = take(tmp_path)
    assert {inventory.kvm.state, inventory.vhost_net.state, inventory.vhost_vsock.state, inventory.tun.state} == {
        "absent"
    }
    text = render(inventory)
    assert f"{tmp_path}/dev/kvm does not exist" in text
    assert "No module of KVM's is loaded or built in" in text


def test_a_usable_kvm_is_told_in_full(tmp_path: Path) -> None:
    fake = FakeKvm(cpuid=[CpuidEntry(0x80000001, 0, 0, 0, 1 << 2, 0)], msrs={0x10A: 1})
    inventory = take(host_with(fake, tmp_path), ioctl=fake.ioctl)
    assert inventory.kvm.state == "usable"
    assert inventory.kvm.capabilities["X86_SMM"] == 1
    assert inventory.kvm.vm_types == ("default",)
    assert inventory.guests.features == ("svm",)
    assert inventory.guests.msr_features == ("rdctl-no",)
    text = render(inventory)
    assert "passed: a VM with a vCPU ran code, exits IO, HLT" in text
    assert "4 recommended, 4096 at most" in text
    assert "0x10a       IA32_ARCH_CAPABILITIES        0x0000000000000001" in text


def test_an_interface_of_another_version_is_not_used() -> None:
    fake = FakeKvm(api_version=13)
    device = probe_device(fake.path, ioctl=fake.ioctl)
    assert (device.state, device.reason) == ("broken", "/dev/null speaks API version 13, not 12")
    assert fake.asked == ["KVM_GET_API_VERSION"]


def test_a_device_that_is_no_kvm_is_broken() -> None:
    device = probe_device("/dev/null")
    assert device.state == "broken"
    assert device.reason == "/dev/null opens, but is no KVM: KVM_GET_API_VERSION: Inappropriate ioctl for device"


def test_a_kvm_that_another_hypervisor_blocks_is_broken() -> None:
    fake = FakeKvm(refuses={abi.CREATE_VM: errno.EBUSY})
    device = probe_device(fake.path, ioctl=fake.ioctl)
    assert (device.state, device.reason) == ("broken", "KVM_CREATE_VM: Device or resource busy")
    assert device.capabilities


def test_a_kvm_without_cpuid_gives_guests_nothing_known() -> None:
    fake = FakeKvm(refuses={abi.GET_SUPPORTED_CPUID: errno.EINVAL})
    assert probe_guests(fake.path, ioctl=fake.ioctl).features == ()


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_module_prints_what_take_finds(arguments: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-m", "kvmctl.ioctl", *arguments], capture_output=True, text=True)
    state = take().kvm.state
    assert (ran.returncode, ran.stderr) == (0 if state == "usable" else 1, "")
    if arguments:
        guests = json.loads(ran.stdout)["guests"]
        # Some words name the CPU that was asked (leaf 0xb), so they differ from one time to the next.
        assert guests["features"] == list(take().guests.features)
        assert len(guests["cpuid"]) == len(take().guests.cpuid)
    else:
        assert ran.stdout.startswith("/dev/kvm ")


def test_the_package_stands_alone() -> None:
    for path in Path(ioctl.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                is_own = name == "kvmctl.ioctl" or name.startswith("kvmctl.ioctl.")
                assert is_own or name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"
