"""What is read besides the ioctls, from trees that look like other hosts'."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmctl.ioctl.kernel import Cpu, find_vendor_module, is_nesting, read_cpu, read_modules, two_stage_paging

INTEL = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz
flags\t\t: fpu vme vmx x2apic tsc_deadline_timer constant_tsc
vmx flags\t: vnmi preemption_timer ept vpid unrestricted_guest pml
bugs\t\t: spectre_v1

processor\t: 1
vendor_id\t: never read
"""


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write `files` under `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_first_cpu_is_read_with_its_vmx_flags(tmp_path: Path) -> None:
    cpu = read_cpu(plant(tmp_path, {"proc/cpuinfo": INTEL}))
    assert (cpu.vendor, cpu.model) == ("GenuineIntel", "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz")
    assert cpu.flags == (
        *("constant_tsc", "ept", "pml", "preemption_timer", "tsc_deadline_timer", "unrestricted_guest"),
        *("vmx", "vnmi", "vpid", "x2apic"),
    )


def test_a_cpu_of_another_kind_has_no_flags(tmp_path: Path) -> None:
    assert read_cpu(plant(tmp_path, {"proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp\n"})) == Cpu()


def test_no_cpuinfo_is_no_cpu(tmp_path: Path) -> None:
    assert read_cpu(tmp_path) == Cpu()


@pytest.mark.parametrize(
    ("files", "module", "paging", "nests"),
    [
        ({"kvm_intel/parameters/ept": "Y\n", "kvm_intel/parameters/nested": "Y\n"}, "kvm_intel", "ept", True),
        ({"kvm_intel/parameters/ept": "N\n", "kvm_intel/parameters/nested": "N\n"}, "kvm_intel", "", False),
        ({"kvm_amd/parameters/npt": "Y\n", "kvm_amd/parameters/nested": "1\n"}, "kvm_amd", "npt", True),
        ({"kvm_pvm/parameters/force": "N\n"}, "kvm_pvm", "", False),
        ({"kvm/parameters/tdp_mmu": "Y\n"}, "", "", False),
        ({}, "", "", False),
    ],
)
def test_modules_and_their_parameters_tell(
    tmp_path: Path, files: dict[str, str], module: str, paging: str, *, nests: bool
) -> None:
    root = plant(tmp_path, {f"sys/module/{name}": text for name, text in files.items()})
    modules = read_modules(root)
    assert set(modules) == {name.split("/")[0] for name in files}
    assert find_vendor_module(root) == module
    assert two_stage_paging(modules) == paging
    assert is_nesting(modules) is nests


def test_a_parameter_that_can_not_be_read_is_left_out(tmp_path: Path) -> None:
    root = plant(tmp_path, {"sys/module/kvm_amd/parameters/npt": "Y\n"})
    (root / "sys/module/kvm_amd/parameters/sev").mkdir()
    assert read_modules(root) == {"kvm_amd": {"npt": "Y"}}


def test_a_module_without_parameters_is_still_there(tmp_path: Path) -> None:
    (tmp_path / "sys/module/kvm_intel").mkdir(parents=True)
    assert read_modules(tmp_path) == {"kvm_intel": {}}
