"""The plan of a machine that is booted to be frozen: what `kvmctl.plan.fork` makes many machines of. Pure.

It differs from the machine's ordinary plan in what all forks will share. The memory is a file that QEMU maps shared, so
that it is all there once QEMU has ended; every writable disk gets a layer of its own; ports of the host, of which there
is one each, are left to QEMU to choose. Cards on a network that forks share are taken out by `kvmctl.plan.card`. What
can't be in several machines at once is refused, with the spec's key: see QEMU's docs/system/vm-templating.rst and
docs/devel/migration/main.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kvmctl.errors import Problem, SpecError
from kvmctl.plan import card
from kvmctl.plan.layers import AddLayer
from kvmctl.plan.model import FROZEN_PORT, Disk, Input, Listen, Plan
from kvmctl.plan.option import Fd, Form, Option, Value, jsonopt, keyvals
from kvmctl.plan.paths import RESIDENT, MachinePaths
from kvmctl.plan.share import InputDirectory
from kvmctl.plan.template_paths import TemplatePaths

GENERATION_ID: Final = "vmgenid"
"""The device that tells a guest that it was copied, and its id."""
_WHY: Final = "default: forks are renewed through it, and run commands"
_CARD: Final = "virtio-net"
"""How the names of network cards begin that have the guest announce itself to its network when it was moved.

It would do so five times in a fork's first second, to a network in which nobody has known it elsewhere. (That is not
forbidden by migration's ``announce-rounds``: with 0 of them QEMU 7.2 dies when the guest is reset.)"""
_MEMORY: Final = "ram"
_BALLOON: Final = "balloon"
_HOST_PORT: Final = re.compile(r"^(\w+:.*):\d+(?=-)")
"""A port forward in libslirp's syntax up to the host's port: ``tcp:127.0.0.1:2222-10.0.2.15:22``."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    way_out: str


_DEVICES: Final[Mapping[str, _Refusal]] = {
    "virtio-9p": _Refusal("a share that is mounted can't be frozen", "leave it out; copy files into the fork"),
    "vhost-user": _Refusal(
        "the program behind it maps the guest's memory, of which each fork has its own", "leave it out of the template"
    ),
    "vhost-vsock": _Refusal("all forks would have the same context ID", "leave it out; there is the guest agent"),
    "vfio-": _Refusal("a device of the host can't be in several machines", "leave it out of the template"),
    "usb-host": _Refusal("a device of the host can't be in several machines", "leave it out of the template"),
    "ivshmem": _Refusal("what is shared with others can't be frozen", "leave it out of the template"),
    "nvme": _Refusal("QEMU can't save the state of an NVMe drive", "bus = 'virtio'"),
    "virtio-gpu-gl": _Refusal("QEMU can't save what is in a graphics card of the host", "video = 'virtio'"),
    "virtio-vga-gl": _Refusal("QEMU can't save what is in a graphics card of the host", "video = 'virtio'"),
}
"""Devices that can't be frozen, by how their drivers' names begin."""
_NETWORKS: Final = frozenset({"user", "tap"})
"""Networks that are a machine's own, where the same address in two of them meets nobody, and those whose cards are."""


def template_plan(plan: Plan, *, machine: MachinePaths, template: TemplatePaths, generation_id: bool) -> Plan:
    """`plan`, of the paths `machine`, for a boot that is to be frozen in `template`.

    `generation_id` says whether QEMU can make the device that tells guests of their copies. Raises SpecError with all
    that stands in the way.
    """
    problems = tuple(_problems(plan, machine))
    if problems:
        raise SpecError(plan.source, problems, hint="A template is what many machines are made of.")
    layered = [disk for disk in plan.disks if _needs_layer(disk, template)]
    plan = plan._replace(
        options=tuple(_options(plan, template, {disk.node: disk for disk in layered})),
        inputs=tuple(_inputs(plan, layered)),
        steps=(*plan.steps, *(_overlay(disk, template) for disk in layered)),
        disks=tuple(_relayered(disk, template) if disk in layered else disk for disk in plan.disks),
        before_run=tuple(step for step in plan.before_run if not str(step.arguments.get("path")).endswith(_BALLOON)),
        ports=(),
        guest=plan.guest._replace(balloon=False),
    )
    if generation_id and _tells_generations(plan):
        device = jsonopt(
            "device",
            {"driver": "vmgenid", "id": GENERATION_ID, "guid": "auto"},
            why="default: guests that have a driver for it are told that they were copied",
        )
        plan = plan._replace(options=(*plan.options, device))
    return _with_resident(plan, machine) if plan.guest.transfer and not plan.guest.resident else plan


def _with_resident(plan: Plan, machine: MachinePaths) -> Plan:
    """`plan` with a port for the program that waits in the guest, beside the one that files are copied through."""
    stream: dict[str, Value] = {"id": RESIDENT, "fd": Fd(RESIDENT), "server": True, "wait": False}
    port: dict[str, Value] = {
        "driver": "virtserialport",
        "id": RESIDENT,
        "chardev": RESIDENT,
        "name": FROZEN_PORT,
        "bus": "channels.0",
    }
    options = keyvals("chardev", "socket", stream, why=_WHY), jsonopt("device", port, why=_WHY)
    return plan._replace(options=(*plan.options, *options), fds=(*plan.fds, Listen(RESIDENT, machine.resident)))


def _tells_generations(plan: Plan) -> bool:
    """Whether the firmware can pass the device on: it takes ACPI tables, and qboot hangs at what is in them then."""
    has_rom = any(option.flag == "bios" for option in plan.options)
    return plan.guest.acpi and "microvm" not in plan.machine_type and not has_rom


def _problems(plan: Plan, machine: MachinePaths) -> Iterator[Problem]:
    for option in plan.options:
        match option.flag:
            case "device":
                yield from _device_problems(option)
            case "netdev" if option.body.get("type", "user") not in _NETWORKS:
                message = "all forks would be at the same end of one cable"
                way_out = "type = 'user', or 'tap' with a bridge"
                yield Problem(_key(option), message, f"'{option.body['type']}'", way_out)
            case "object" if option.body.get("id") == _MEMORY:
                yield from _memory_problems(option, is_shared=plan.spec["memory"]["shared"])
            case "blockdev" if option.body["driver"] == "host_device" and not option.body["read-only"]:
                message = "what is below the disks of forks must stay as it is, and a device may change"
                yield Problem(_key(option), message, f"'{option.body['filename']}'", "path = an image")
            case "vnc" if str(option.lead).startswith("unix:") and option.lead != f"unix:{machine.vnc}":
                yield Problem("vnc.socket", "all forks would listen on one socket", allowed="leave it out")
    yield from card.problems(plan)
    yield from (
        Problem(port.key, "all forks would listen on one port", str(port.port), "leave it to QEMU")
        for port in plan.ports
        if ".forward[" not in port.key
    )


def _device_problems(option: Option) -> Iterator[Problem]:
    driver = str(option.body.get("driver", option.text.partition(",")[0]))
    for prefix, refusal in _DEVICES.items():
        if driver.startswith(prefix):
            yield Problem(_key(option), refusal.reason, f"'{driver}'", refusal.way_out)
    if option.body.get("id") == _BALLOON and not option.why.startswith("default"):
        message = "a balloon gives memory back by punching holes into the file that all forks map"
        yield Problem(_BALLOON, message, allowed="leave it out")


def _memory_problems(option: Option, *, is_shared: bool) -> Iterator[Problem]:
    body = option.body
    if body.get("hugetlb"):
        message = "the memory of a template is a file with pages of the usual size"
        yield Problem("memory.hugepages", message, allowed="leave it out, or boot each machine by itself: kvmctl start")
    if body["qom-type"] == "memory-backend-file":
        yield Problem("memory.source", "the memory of a template is a file of its own", "'file'", "leave it out")
    if is_shared:
        yield Problem("memory.shared", "forks have memory of their own, which nobody else can map", "true", "false")


def _key(option: Option) -> str:
    """The spec's key that an option is there for, or what it is where no key asked for it."""
    return option.why if not option.why.startswith("default") else f"-{option.flag}"


def _needs_layer(disk: Disk, template: TemplatePaths) -> bool:
    is_own = disk.path is not None and disk.path.startswith(f"{template.directory}/")
    return disk.path is not None and not disk.read_only and not is_own


def _overlay(disk: Disk, template: TemplatePaths) -> AddLayer:
    return AddLayer(template.layer(disk.id), str(disk.path), str(disk.format), f"disks {disk.id!r}")


def _relayered(disk: Disk, template: TemplatePaths) -> Disk:
    return disk._replace(path=template.layer(disk.id), format="qcow2")


def _inputs(plan: Plan, layered: list[Disk]) -> Iterator[Input | InputDirectory]:
    """An image below a layer is only read."""
    below = {disk.path for disk in layered}
    for item in plan.inputs:
        yield item._replace(writable=False) if isinstance(item, Input) and item.path in below else item


def _options(plan: Plan, template: TemplatePaths, layered: Mapping[str | None, Disk]) -> Iterator[Option]:
    lonely = {option.body["id"] for option in plan.options if option.body.get("type") == "user"}
    for option in plan.options:
        match option.flag:
            case "object" if option.body.get("id") == _MEMORY:
                yield _memory(option, template)
            case "device" if option.body.get("id") == _BALLOON:
                continue
            case "device" if option.body.get("netdev") in lonely and str(option.body["driver"]).startswith(_CARD):
                yield option._replace(body={**option.body, "guest_announce": False})
            case "blockdev":
                yield _block_node(option, template, layered)
            case "netdev" if "hostfwd" in option.body:
                yield option._replace(body={**option.body, "hostfwd": _any_ports(option.body["hostfwd"])})
            case _:
                yield option


def _memory(option: Option, template: TemplatePaths) -> Option:
    body = {key: value for key, value in option.body.items() if key not in {"hugetlb", "hugetlbsize"}}
    body |= {"qom-type": "memory-backend-file", "mem-path": template.memory, "share": True}
    return option._replace(body=body)


def _block_node(option: Option, template: TemplatePaths, layered: Mapping[str | None, Disk]) -> Option:
    """The storage and the format of a disk that has a layer, on that layer."""
    node = str(option.body["node-name"])
    if node in layered:
        return option._replace(body={**option.body, "driver": "qcow2"})
    disk = layered.get(node.removesuffix("-file")) if node.endswith("-file") else None
    return option if disk is None else option._replace(body={**option.body, "filename": template.layer(disk.id)})


def _any_ports(forwards: Value) -> list[Value]:
    """The forwards with port 0 on the host, for which QEMU finds a free one."""
    found: list[Value] = []
    for item in forwards if isinstance(forwards, list | tuple) else ():
        text = str(item["str"]) if isinstance(item, Mapping) else ""
        found.append({"str": _HOST_PORT.sub(r"\1:0", text)})
    return found


def memory_file(plan: Plan) -> str:
    """The path of the file that a template's or fork's memory is mapped from; empty for other plans."""
    memory = (option for option in plan.options if option.form is Form.JSON and option.body.get("id") == _MEMORY)
    return next((str(option.body.get("mem-path", "")) for option in memory), "")
