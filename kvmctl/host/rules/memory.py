"""Memory and what shares it out: amounts, huge pages, KSM, control groups; and where machines keep their files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kvmctl.host.finding import Finding
from kvmctl.host.record import Survey

_LITTLE: Final = 512 << 20
"""Bytes; less than that available, and a machine of ordinary size makes the host swap."""


def check_memory(survey: Survey) -> Iterator[Finding]:
    """How much there is, and how much is left."""
    memory = survey.memory
    limit = f"; this session is limited to {_size(memory.limit)}" if memory.limit is not None else ""
    text = f"{_size(memory.available)} of {_size(memory.total)} memory are available{limit}"
    usable = min(memory.available, memory.limit if memory.limit is not None else memory.available)
    if usable < _LITTLE:
        yield Finding("memory.little", "warning", text, "stop other programs, or give machines less memory")
    else:
        yield Finding("memory.enough", "ok", text)


def check_hugepages(survey: Survey) -> Iterator[Finding]:
    """Huge pages set aside for ``memory.hugepages``; transparent ones come by themselves."""
    by_itself = survey.transparent_hugepages
    also = f"; transparent huge pages: {by_itself}" if by_itself else ""
    pools = [pool for pool in survey.hugepages if pool.total]
    if pools:
        told = ", ".join(f"{pool.free} of {pool.total} free, {_size(pool.size)} each" for pool in pools)
        yield Finding("hugepages.reserved", "ok", f"Huge pages: {told}{also}")
    elif survey.hugepages:
        smallest = min(survey.hugepages, key=lambda pool: pool.size)
        fix = f"sudo sysctl vm.nr_hugepages=N, for N pages of {_size(smallest.size)}"
        yield Finding("hugepages.none", "note", f"No huge pages are set aside{also}", fix)


def check_ksm(survey: Survey) -> Iterator[Finding]:
    """Same-page merging, which machines with ``memory.merge`` take part in."""
    ksm = survey.ksm
    if ksm is None:
        text = "This kernel can't merge equal pages of machines (no KSM)"
        yield Finding("ksm.absent", "note", text, "a kernel built with CONFIG_KSM=y, as distributions' own are")
    elif ksm.is_running:
        yield Finding("ksm.running", "ok", f"KSM merges equal pages of machines and saves {_size(ksm.saved)} now")
    else:
        fix = "echo 1 | sudo tee /sys/kernel/mm/ksm/run; only among machines that trust each other"
        yield Finding("ksm.off", "note", "Equal pages of machines are not merged (KSM is off)", fix)


_CONTAINERS: Final = "ask whoever runs this container for control groups that it may write to"


def check_cgroups(survey: Survey) -> Iterator[Finding]:
    """Control groups, by which the resources of machines can be limited."""
    groups = survey.cgroups
    names = ", ".join(groups.controllers) or "no controllers"
    match groups.version:
        case "none":
            text = "There are no control groups here: machines can't be limited"
            fix = _CONTAINERS if survey.system.container else "sudo mount -t cgroup2 none /sys/fs/cgroup"
            yield Finding("cgroups.none", "note", text, fix)
        case "v1":
            fix = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line"
            yield Finding("cgroups.v1", "note", f"Control groups are of version 1 ({names})", fix)
        case "v2" if groups.is_writable:
            yield Finding("cgroups.v2", "ok", f"Control groups are of version 2 ({names}), and may be made here")
        case "v2":
            whose = "" if survey.user.uid == 0 else " --user"
            scope = f"run it in a scope of its own: systemd-run{whose} --scope -p Delegate=yes ..."
            fix = _CONTAINERS if survey.system.container else scope
            yield Finding("cgroups.v2-fixed", "note", f"Control groups are of version 2 ({names}), and fixed here", fix)


def check_runtime_dir(survey: Survey) -> Iterator[Finding]:
    """Whether running machines have a place for their sockets, and whether it outlives the login session."""
    directory, name = survey.runtime, survey.user.name
    if not directory.is_writable:
        text = f"Running machines would keep their files in {directory.path}, where {name} may not write"
        yield Finding("runtime.not-writable", "problem", text, "set KVMCTL_RUNTIME_DIR to a directory of your own")
    elif directory.is_volatile and not directory.lingers:
        text = f"Running machines keep their files in {directory.path}, which vanishes when {name} logs out"
        yield Finding("runtime.volatile", "warning", text, f"loginctl enable-linger {name}")
    else:
        yield Finding("runtime.lasting", "ok", f"Running machines keep their files in {directory.path}")


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count // 1024} KiB"
