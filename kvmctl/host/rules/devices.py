"""The devices beside KVM: vhost, tun, and the IOMMU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kvmctl.host.finding import Finding, Level
from kvmctl.host.record import Survey
from kvmctl.ioctl.nodes import Node

_VHOST_NET_LOSS: Final = "packets of tap networks go through QEMU, which costs throughput"


def check_vhost_net(survey: Survey) -> Iterator[Finding]:
    """The kernel's own path for packets of tap networks."""
    node = survey.inventory.vhost_net
    if node.state == "usable":
        yield Finding("vhost-net.usable", "ok", "vhost-net works: packets of tap networks pass QEMU by")
    else:
        yield _explain(survey, node, "vhost-net", loss=_VHOST_NET_LOSS, module="vhost_net", level="note")


def check_vhost_vsock(survey: Survey) -> Iterator[Finding]:
    """Sockets between host and guest without a network."""
    node = survey.inventory.vhost_vsock
    if node.state == "usable":
        yield Finding("vhost-vsock.usable", "ok", "vhost-vsock works: guests can have a vsock address")
    else:
        yield _explain(survey, node, "vhost-vsock", loss="no vsock", module="vhost_vsock", level="note")


def check_tun(survey: Survey) -> Iterator[Finding]:
    """The maker of tap devices; opening it takes less than making one."""
    node, user = survey.inventory.tun, survey.user
    if node.state != "usable":
        loss = "no tap networks; user-mode networks work"
        level: Level = "warning" if user.makes_networks else "note"
        yield _explain(survey, node, "tun", loss=loss, module="tun", level=level)
    elif user.makes_networks:
        queues = ", with several queues" if "multi-queue" in node.features else ""
        yield Finding("tun.usable", "ok", f"Tap networks can be made{queues}")
    else:
        text = f"{user.name} may open tap devices but not make any; user-mode networks need neither"
        fix = f"have root make one: sudo ip tuntap add dev NAME mode tap user {user.name}"
        yield Finding("tun.no-privilege", "note", text, fix)


def check_iommu(survey: Survey) -> Iterator[Finding]:
    """IOMMU groups, which passing host devices to guests takes."""
    iommu = survey.iommu
    if iommu.groups:
        yield Finding("iommu.usable", "ok", f"The IOMMU is on: {iommu.devices} devices in {iommu.groups} groups")
        return
    text = "There are no IOMMU groups: host devices can't be passed to guests"
    if "hypervisor" in survey.inventory.cpu.flags:
        fix = "this host is itself a virtual machine: its hypervisor would have to give it an IOMMU"
    elif survey.inventory.cpu.vendor == "GenuineIntel":
        fix = "switch on VT-d in the firmware's setup and add intel_iommu=on to the kernel's command line"
    else:
        fix = "switch on the IOMMU (AMD-Vi) in the firmware's setup"
    place = "on the host: " if survey.system.container else ""
    yield Finding("iommu.absent", "note", text, place + fix)


def _explain(survey: Survey, node: Node, name: str, *, loss: str, module: str, level: Level) -> Finding:
    fix = {
        "absent": f"sudo modprobe {module}",
        "denied": f"sudo setfacl -m u:{survey.user.name}:rw {node.path} (until the next boot)",
        "broken": f"sudo modprobe {module}; see what the kernel says: sudo dmesg | grep -i {name}",
        "usable": "",
    }[node.state]
    if survey.system.container and node.state == "absent":
        fix = f"on the host: {fix}, and give the container {node.path}"
    return Finding(f"{name}.{node.state}", level, f"{node.reason}: {loss}", fix)
