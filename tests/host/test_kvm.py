"""The quick look at every start: its facts, and that it stays quick."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kvmctl.host.kvm import kvm_facts, probe
from kvmctl.ioctl.abi import ExitReason
from kvmctl.ioctl.caps import Cap
from kvmctl.ioctl.device import Exit
from kvmctl.ioctl.kernel import Cpu
from kvmctl.ioctl.probe import Device, probe_device
from kvmctl.plan.facts import choose_accel
from kvmctl.testing.fakekvm import ORDINARY_CAPABILITIES, FakeKvm

INTEL = Cpu("GenuineIntel", "", ("ept", "vmx"))


def plant(root: Path, fake: FakeKvm, files: Mapping[str, str]) -> Path:
    """A file system with the fake's /dev/kvm and `files`."""
    (root / "dev").mkdir()
    (root / "dev/kvm").symlink_to(fake.path)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_an_intel_host_with_everything_chooses_kvm(tmp_path: Path) -> None:
    fake = FakeKvm()
    files = {
        "proc/cpuinfo": "vendor_id\t: GenuineIntel\nflags\t\t: vmx x2apic\n\n",
        "sys/module/kvm_intel/parameters/nested": "Y\n",
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "12\n",
        "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages": "0\n",
    }
    host = probe(plant(tmp_path, fake, files), ioctl=fake.ioctl)
    assert (host.kvm.state, host.kvm.module, host.kvm.runs_code) == ("usable", "kvm_intel", True)
    assert host.kvm.cpu_flags == {"vmx", "x2apic"}
    assert choose_accel(host.kvm).accel == "kvm"
    assert host.hugepages == {2 << 20: 12, 1 << 30: 0}
    assert (host.vhost_net, host.vhost_vsock, host.tun) == (False, False, False)


def test_a_host_without_anything_chooses_tcg_and_says_why(tmp_path: Path) -> None:
    host = probe(tmp_path)
    assert (host.kvm.state, host.kvm.module, host.hugepages) == ("absent", "", {})
    assert choose_accel(host.kvm).reason == f"{tmp_path}/dev/kvm does not exist"


def test_a_kvm_that_fails_the_self_test_is_not_chosen() -> None:
    fake = FakeKvm(exits=[Exit(ExitReason.HLT)])
    facts = kvm_facts(probe_device(fake.path, ioctl=fake.ioctl), INTEL, "kvm_intel")
    assert (facts.state, facts.creates_vcpu, facts.runs_code) == ("broken", True, False)
    assert choose_accel(facts).reason == "the guest halted before it wrote its result"


def test_a_kvm_without_what_qemu_needs_is_not_chosen() -> None:
    caps = {cap: value for cap, value in ORDINARY_CAPABILITIES.items() if cap is not Cap.DESTROY_MEMORY_REGION_WORKS}
    fake = FakeKvm(capabilities=caps)
    facts = kvm_facts(probe_device(fake.path, ioctl=fake.ioctl), INTEL, "kvm_intel")
    assert facts.reason == "/dev/null lacks capabilities that QEMU needs: DESTROY_MEMORY_REGION_WORKS"
    assert choose_accel(facts).accel == "tcg"


def test_the_reason_why_it_can_not_be_opened_is_passed_on() -> None:
    device = Device("/dev/kvm", "denied", "no permission to open /dev/kvm")
    assert choose_accel(kvm_facts(device, INTEL, "")).reason == "no permission to open /dev/kvm"


def test_this_host_has_cpus_and_memory() -> None:
    host = probe()
    assert host.cpus == len(os.sched_getaffinity(0))
    assert host.memory > 1 << 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused")
def test_another_user_gets_facts_too() -> None:
    program = (
        "import os; from kvmctl.host.kvm import probe; os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "host = probe(); print(host.kvm.state, host.kvm.reason, sep='|')"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment())
    expected = "denied|no permission to open /dev/kvm" if is_roots_alone("/dev/kvm") else ""
    assert expected in ran.stdout


def test_a_start_does_not_pay_for_psutil_or_the_survey() -> None:
    program = "import sys, kvmctl.host.kvm; print(*sys.modules, sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment())
    loaded = set(ran.stdout.split())
    assert not loaded & {"psutil", "asyncio", "pydantic", "kvmctl.host.survey", "kvmctl.ioctl.inventory"}


def is_roots_alone(path: str) -> bool:
    """Whether only root may open it, going by its mode."""
    try:
        return not Path(path).stat().st_mode & 0o006
    except OSError:
        return False


def environment() -> dict[str, str]:
    """This one, with kvmctl importable."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
