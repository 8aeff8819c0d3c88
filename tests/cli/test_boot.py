"""``boot --profile``: copies are booted and timed, and neither they nor the time they took leave anything behind."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, Kvmctl

pytestmark = pytest.mark.qemu

TINY = "memory = '16MiB'\nfirmware = 'qboot.rom'\nballoon = false\nrng = false\n"
KERNEL = "[boot]\nkernel = 'builtin:tiny'\n"


@pytest.fixture
def spec(kvmctl: Kvmctl) -> Path:
    return kvmctl.directory / "web.toml"


def test_each_boot_is_told_and_what_they_amount_to(kvmctl: Kvmctl) -> None:
    done = kvmctl("boot", "--profile", "tiny", "-n", "3")
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["STAGE", "P50", "P95", "UNTIL"]
    assert [row.split()[0] for row in rows] == ["qemu", "firmware", "agent", "total"]
    assert done.stderr.count("booted in ") == 3
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_the_stages_of_each_boot_add_up_to_its_total(kvmctl: Kvmctl) -> None:
    record = json.loads(kvmctl.ok("boot", "--profile", "tiny", "-n", "2", "--json"))
    assert len(record["boots"]) == 2
    for boot in record["boots"]:
        total = boot.pop("total")
        assert total == pytest.approx(sum(boot.values()), abs=1e-4)
        assert all(seconds >= 0 for seconds in boot.values())
    assert record["p50"]["total"] <= record["p95"]["total"]


def test_a_guest_without_an_agent_is_timed_to_its_first_word(kvmctl: Kvmctl, spec: Path) -> None:
    spec.write_text(f"{TINY}agent = false\n{KERNEL}")
    record = json.loads(kvmctl.ok("boot", "--profile", "./web.toml", "-n", "1", "--json"))
    assert set(record["p50"]) == {"qemu", "firmware", "total"}


def test_disks_are_only_read(kvmctl: Kvmctl, spec: Path) -> None:
    disk = kvmctl.directory / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    before = hashlib.sha256(disk.read_bytes()).digest()
    spec.write_text(f"{TINY}agent = {{ transport = 'serial' }}\n{KERNEL}[[disks]]\npath = '{disk}'\n")
    kvmctl.ok("boot", "--profile", "./web.toml", "-n", "2")
    assert hashlib.sha256(disk.read_bytes()).digest() == before
    assert sorted(path.name for path in kvmctl.directory.iterdir() if path.suffix == ".qcow2") == ["disk.qcow2"]


def test_a_guest_that_ends_before_it_is_up_is_an_error(kvmctl: Kvmctl, spec: Path) -> None:
    spec.write_text(f"{TINY}{KERNEL}cmdline = 'off'\n")
    done = kvmctl("boot", "--profile", "./web.toml")
    assert done.returncode == 5
    assert "ended before" in done.stderr
    assert kvmctl.ok("list", "--all", "--quiet") == ""


def test_a_guest_that_does_not_come_up_is_given_up_with_how_far_it_came(kvmctl: Kvmctl, spec: Path) -> None:
    spec.write_text(f"{TINY}{KERNEL}")  # it has no virtio, and so never opens the agent's channel
    done = kvmctl("boot", "--profile", "./web.toml", "--timeout", "5")
    assert done.returncode == 10
    assert "machine 'web' did not boot within 5 s\nstages that were seen to end: qemu\n" in done.stderr
    assert kvmctl.ok("list", "--all", "--quiet") == ""


@pytest.mark.linux
@pytest.mark.slow
def test_a_linux_tells_when_its_kernel_and_its_first_process_began(kvmctl: Kvmctl) -> None:
    build = [sys.executable, ROOT / "scripts/build-guest", "-o", ROOT / "machines/images/small-linux"]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the guest can't be built here: {built.stderr.strip().splitlines()[-1]}")
    spec = str(ROOT / "machines/small-linux.toml")
    (boot,) = json.loads(kvmctl.ok("boot", "--profile", spec, "-n", "1", "--json"))["boots"]
    assert list(boot) == ["qemu", "firmware", "kernel", "init", "agent", "exec", "total"]
    assert min(boot.values()) > 0


@pytest.mark.debian
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_system_is_timed_as_far_and_nothing_of_it_is_on_its_disk(kvmctl: Kvmctl, debian_disk: Path) -> None:
    disk = kvmctl.directory / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", disk], check=True)
    before = disk.read_bytes()
    (kvmctl.directory / "web.toml").write_text(f"memory = '1GiB'\ncpus = 2\n[[disks]]\npath = '{disk}'\n")
    kvmctl.patience = 800
    words = ("boot", "--profile", "./web.toml", "-n", "1", "--timeout", "700", "--json")
    (boot,) = json.loads(kvmctl.ok(*words))["boots"]
    assert list(boot) == ["qemu", "firmware", "kernel", "init", "agent", "exec", "total"]
    assert min(boot.values()) > 0
    assert disk.read_bytes() == before
    assert kvmctl.ok("list", "--all", "--quiet") == ""
