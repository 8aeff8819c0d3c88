"""What every start wants to know of this host: KVM, the devices beside it, CPUs and memory. A few milliseconds.

No psutil here: importing it takes longer than everything below.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

from kvmctl.host.identity import find_user_name
from kvmctl.ioctl.handle import Ioctl, system_ioctl
from kvmctl.ioctl.kernel import ROOT, Cpu, find_vendor_module, read_cpu
from kvmctl.ioctl.nodes import probe_tun, probe_vhost
from kvmctl.ioctl.probe import Device, probe_device
from kvmctl.plan.facts import HostFacts, KvmFacts

NEEDED: Final = ("USER_MEMORY", "DESTROY_MEMORY_REGION_WORKS", "JOIN_MEMORY_REGIONS_WORKS", "SET_TSS_ADDR", "EXT_CPUID")
"""The capabilities without which QEMU refuses KVM (accel/kvm/kvm-all.c, target/i386/kvm/kvm.c)."""

_POOL: Final = re.compile(r"hugepages-(\d+)kB")

_usable: Final[dict[tuple[object, ...], KvmFacts]] = {}
"""The KVM that passed its self-test in this process, by the identity of its node: it takes longer than all the rest."""


def probe(root: Path = ROOT, *, ioctl: Ioctl = system_ioctl) -> HostFacts:
    """Look at this host. Never raises for what it lacks."""
    dev = root / "dev"
    return HostFacts(
        kvm=_probe_kvm(root, ioctl),
        vhost_net=probe_vhost(str(dev / "vhost-net"), ioctl=ioctl).state == "usable",
        vhost_vsock=probe_vhost(str(dev / "vhost-vsock"), ioctl=ioctl).state == "usable",
        tun=probe_tun(str(dev / "net/tun"), ioctl=ioctl).state == "usable",
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        hugepages=_free_hugepages(root),
        setpriv=shutil.which("setpriv"),
        user=find_user_name(),
    )


def kvm_facts(device: Device, cpu: Cpu, module: str) -> KvmFacts:
    """The facts that decide about KVM, from what `kvmctl.ioctl` found."""
    state, reason = device.state, device.reason
    missing = [name for name in NEEDED if name not in device.capabilities]
    if state == "usable" and missing:
        state, reason = "broken", f"{device.path} lacks capabilities that QEMU needs: {', '.join(missing)}"
    return KvmFacts(
        state=state,
        reason=reason,
        api_version=device.api_version,
        capabilities=device.capabilities,
        creates_vm=device.self_test.creates_vm,
        creates_vcpu=device.self_test.creates_vcpu,
        runs_code=device.self_test.runs_code,
        refused_cpu_features=device.self_test.refused_msrs,
        cpu_flags=frozenset(cpu.flags),
        module=module,
    )


def _probe_kvm(root: Path, ioctl: Ioctl) -> KvmFacts:
    """The KVM of this host; one that was found usable is not tried again until its node or our identity changes."""
    path = os.path.join(root, "dev/kvm")
    identity = _identify(path, ioctl)
    if identity in _usable:
        return _usable[identity]
    facts = kvm_facts(probe_device(path, ioctl=ioctl), read_cpu(root), find_vendor_module(root))
    if identity is not None and facts.state == "usable":
        _usable.clear()
        _usable[identity] = facts
    return facts


def _identify(path: str, ioctl: Ioctl) -> tuple[object, ...] | None:
    """What changes when the node at `path`, or what we may do with it, does; None where there is none."""
    try:
        node = os.stat(path)
    except OSError:
        return None
    return (path, node.st_ino, node.st_ctime_ns, os.geteuid(), os.getegid(), *os.getgroups(), ioctl)


def _free_hugepages(root: Path) -> dict[int, int]:
    """Free pages by page size in bytes; sizes the kernel offers and nobody reserved are there with 0."""
    pools = os.path.join(root, "sys/kernel/mm/hugepages")
    found = {}
    for name in sorted(os.listdir(pools)) if os.path.isdir(pools) else []:
        if size := _POOL.fullmatch(name):
            with open(os.path.join(pools, name, "free_hugepages"), "rb") as file:
                found[int(size[1]) * 1024] = int(file.read())
    return found
