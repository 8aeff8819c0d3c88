"""Looking at everything on a host that decides what kvmctl can do there, for ``kvmctl doctor``.

Only looks: nothing is loaded, written or changed, but for the modules that the kernel itself loads when a device is
opened. Takes about a tenth of a second, nearly all of it QEMU's. What the findings mean is decided in `doctor`.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from kvmctl.errors import HostError, QemuNotFound, QemuTooOld
from kvmctl.host.firmware_switch import read_firmware_switch
from kvmctl.host.identity import find_qemu
from kvmctl.host.programs import PROGRAMS, find_program
from kvmctl.host.qemu import qemu_facts
from kvmctl.host.record import (
    Cgroups,
    HugePages,
    Iommu,
    Ksm,
    Memory,
    Permissions,
    Qemu,
    RuntimeDir,
    Survey,
    System,
    User,
)
from kvmctl.host.virtiofsd import probe_virtiofsd
from kvmctl.ioctl.inventory import take
from kvmctl.ioctl.kernel import ROOT
from kvmctl.plan.facts import QemuFacts
from kvmctl.plan.paths import Roots

_CAP_NET_ADMIN: Final = 12
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FAMILIES: Final = ("debian", "fedora", "arch")

OFFERED_DEVICES: Final = (
    *("virtio-blk-pci", "virtio-scsi-pci", "virtio-net-pci", "virtio-serial-pci", "virtio-balloon-pci"),
    *("virtio-rng-pci", "virtio-vga", "qxl-vga", "cirrus-vga", "nvme", "ich9-ahci", "usb-tablet", "i6300esb"),
    *("pvpanic-pci", "vhost-vsock-pci"),
)
"""Devices that specs can ask for and that a distribution may have left out or packaged apart."""


def survey(root: Path = ROOT, *, env: Mapping[str, str] = os.environ) -> Survey:
    """Look at this host. Never raises for what it lacks."""
    inventory = take(root)
    roots = _find_roots(env)
    return Survey(
        system=_look_at_system(root, env=env),
        user=_look_at_user(root),
        inventory=inventory,
        memory=_look_at_memory(root),
        qemu=_look_at_qemu(roots, env=env),
        runtime=RuntimeDir(roots.runtime, roots.runtime_is_volatile, _lingers(root), _is_writable(Path(roots.runtime))),
        kvm_node=_look_at_node(root / "dev/kvm"),
        switch=read_firmware_switch(root, vendor=inventory.cpu.vendor),
        hugepages=tuple(_look_at_hugepages(root)),
        transparent_hugepages=_chosen(_text(root / "sys/kernel/mm/transparent_hugepage/enabled")),
        ksm=_look_at_ksm(root),
        cgroups=_look_at_cgroups(root),
        iommu=_look_at_iommu(root),
        programs={program.name: find_program(program, env=env) for program in PROGRAMS},
        virtiofsd_problem=_find_virtiofsd_problem(env),
    )


def _find_virtiofsd_problem(env: Mapping[str, str]) -> str:
    daemon = probe_virtiofsd(env=env, cache=None)
    return daemon.reason if daemon.path else ""


def _look_at_system(root: Path, *, env: Mapping[str, str]) -> System:
    release = _os_release(root)
    alike = (release.get("ID", ""), *release.get("ID_LIKE", "").replace("rhel", "fedora").split())
    kernel = os.uname()
    return System(
        kernel=kernel.release,
        machine=kernel.machine,
        distribution=release.get("PRETTY_NAME", ""),
        family=next((family for family in _FAMILIES if family in alike), alike[0]),
        container=_find_container(root, env=env),
        kvm_on_disk=_find_kvm_modules(root / "lib/modules" / kernel.release),
    )


def _os_release(root: Path) -> dict[str, str]:
    words = shlex.split(_text(root / "etc/os-release"), comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


def _find_container(root: Path, *, env: Mapping[str, str]) -> str:
    """The kind of container whose devices these are; empty where /dev is the kernel's own, with every device."""
    mounts = (line.split() for line in _text(root / "proc/self/mountinfo").splitlines())
    if any(mount[4] == "/dev" and mount[mount.index("-") + 1] == "devtmpfs" for mount in mounts):
        return ""
    if "KUBERNETES_SERVICE_HOST" in env:
        return "kubernetes"
    if said := _text(root / "run/systemd/container"):
        return said
    marks = {"run/.containerenv": "podman", ".dockerenv": "docker", "dev/lxd": "lxc"}
    return next((name for mark, name in marks.items() if (root / mark).exists()), "")


def _find_kvm_modules(directory: Path) -> tuple[str, ...]:
    found = {path.name.partition(".")[0] for path in (directory / "kernel/arch/x86/kvm").glob("kvm-*.ko*")}
    built_in = _text(directory / "modules.builtin").split()
    found |= {Path(line).stem for line in built_in if line.startswith("kernel/arch/x86/kvm/kvm-")}
    return tuple(sorted(name.replace("-", "_") for name in found))


def _look_at_user(root: Path) -> User:
    uid = os.geteuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        # A container's arbitrary user has no entry.
        return User(str(uid), uid, _names(os.getgroups()), (), makes_networks=_makes_networks(root))
    return User(
        name=entry.pw_name,
        uid=uid,
        groups=_names({os.getegid(), *os.getgroups()}),
        member_of=_names(os.getgrouplist(entry.pw_name, entry.pw_gid)),
        makes_networks=_makes_networks(root),
    )


def _names(gids: set[int] | list[int]) -> tuple[str, ...]:
    return tuple(sorted(_group_name(gid) for gid in set(gids)))


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _makes_networks(root: Path) -> bool:
    lines = _text(root / "proc/self/status").splitlines()
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_NET_ADMIN & 1)


def _look_at_node(path: Path) -> Permissions | None:
    try:
        status = path.stat()
    except OSError:
        return None
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    return Permissions(owner, _group_name(status.st_gid), f"{stat.S_IMODE(status.st_mode):04o}")


def _look_at_memory(root: Path) -> Memory:
    memory = psutil.virtual_memory()
    limits = [limit for limit in _cgroup_limits(root) if limit < memory.total]
    return Memory(memory.total, memory.available, min(limits, default=None))


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The memory limits in bytes of this process's group and all those above it; without one, nothing or a huge one."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        top = root / "sys/fs/cgroup" / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = top / path.lstrip("/")
        for each in (group, *group.parents):
            if each.is_relative_to(top) and (text := _text(each / name)).isdecimal():
                yield int(text)


def _look_at_hugepages(root: Path) -> Iterator[HugePages]:
    for pool in (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB"):
        size = int(pool.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        total, free = (int(_text(pool / f"{name}_hugepages") or 0) for name in ("nr", "free"))
        yield HugePages(size, total, free)


def _look_at_ksm(root: Path) -> Ksm | None:
    directory = root / "sys/kernel/mm/ksm"
    run = _text(directory / "run")
    return Ksm(run == "1", int(_text(directory / "pages_sharing") or 0) * _PAGE) if run else None


def _look_at_cgroups(root: Path) -> Cgroups:
    """Where both versions are mounted (systemd's hybrid), the first one has the controllers, so it counts."""
    groups = [line.split(":", 2)[1:] for line in _text(root / "proc/self/cgroup").splitlines()]
    first = sorted(name for names, _ in groups for name in names.split(",") if name and not name.startswith("name="))
    top = root / "sys/fs/cgroup"
    if first:
        return Cgroups("v1", tuple(first), is_writable=all(os.access(top / name, os.W_OK) for name in first))
    for _, path in groups:
        own = top / path.lstrip("/")
        return Cgroups("v2", tuple(_text(own / "cgroup.controllers").split()), is_writable=os.access(own, os.W_OK))
    return Cgroups()


def _look_at_iommu(root: Path) -> Iommu:
    groups = list((root / "sys/kernel/iommu_groups").glob("*/devices"))
    return Iommu(len(groups), sum(len(list(group.iterdir())) for group in groups))


def _look_at_qemu(roots: Roots, *, env: Mapping[str, str]) -> Qemu:
    origin = "KVMCTL_QEMU" if env.get("KVMCTL_QEMU") else "PATH"
    path = env.get("KVMCTL_QEMU", "")
    try:
        path = find_qemu(env=env)
        return _describe_qemu(qemu_facts(path, cache=roots.qemu_cache, env=env, remember=False), origin)
    except QemuNotFound as error:
        return Qemu(path, origin, "missing", error.summary)
    except QemuTooOld as error:
        return Qemu(path, origin, "too old", error.summary)
    except HostError as error:
        return Qemu(path, origin, "broken", error.summary, error.detail)


def _describe_qemu(facts: QemuFacts, origin: str) -> Qemu:
    return Qemu(
        path=facts.path,
        origin=origin,
        state="usable",
        version=facts.version_text,
        package=facts.package,
        features=tuple(sorted(feature.value for feature in facts.features)),
        accelerators=tuple(sorted(facts.accelerators)),
        machines=len(facts.machines),
        devices=len(facts.devices),
        cpu_models=len(facts.cpu_models),
        missing_devices=tuple(name for name in OFFERED_DEVICES if name not in facts.devices),
        firmwares=tuple(firmware.descriptor for firmware in facts.firmwares),
        has_secure_boot=any("secure-boot" in firmware.features for firmware in facts.firmwares),
    )


def _find_roots(env: Mapping[str, str]) -> Roots:
    uid = os.getuid()
    home = env.get("HOME") or str(Path("~").expanduser())
    return Roots.resolve(env, uid=uid, home=home, has_run_user=Path(f"/run/user/{uid}").is_dir())


def _lingers(root: Path) -> bool:
    with suppress(KeyError):
        return (root / "var/lib/systemd/linger" / pwd.getpwuid(os.getuid()).pw_name).exists()
    return False


def _is_writable(directory: Path) -> bool:
    """Whether one may write there, or into the directory in which it would have to be made."""
    nearest = next((path for path in (directory, *directory.parents) if path.exists()), Path("/"))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK, effective_ids=True)


def _chosen(text: str) -> str:
    """The word in brackets, as sysfs shows a choice: ``always [madvise] never``."""
    return text.partition("[")[2].partition("]")[0]


def _text(path: Path) -> str:
    """A small file's text without surrounding space; empty when there is none or it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
