"""The plan of a fork: a frozen machine's own plan, on its memory and disks copy-on-write. Pure.

A fork's plan is decided once, when the machine is frozen; forking only gives it its name, its identity and its
directories (`kvmctl.plan.placing.place`), which takes no compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import join
from typing import Final, NamedTuple

from kvmctl.plan import card
from kvmctl.plan.card import Card
from kvmctl.plan.features import Feature
from kvmctl.plan.layers import CopyImage, SharedLock
from kvmctl.plan.model import (
    CopySecret,
    FdSource,
    Input,
    Listen,
    MakeFifos,
    OpenFile,
    Pair,
    Plan,
    QmpStep,
    Step,
    StoreSecret,
)
from kvmctl.plan.option import Fd, Option, Value, jsonopt, text
from kvmctl.plan.paths import RESIDENT, MachinePaths
from kvmctl.plan.placing import DISKS, PLACE, moved
from kvmctl.plan.share import InputDirectory
from kvmctl.plan.template_paths import TemplatePaths

IGNORE_SHARED: Final = {"capability": "x-ignore-shared", "state": True}
"""The migration capability that leaves out memory which is a shared file: it is there already."""
EVENTS: Final = {"capability": "events", "state": True}
"""The one by which QEMU tells how far it is."""
_WHY: Final = "default: a fork goes on where its template was frozen"
DEVICE_STATE: Final = "device-state"
"""The descriptor that QEMU reads the devices' state from, by its name in a plan."""


class Layer(NamedTuple):
    """A writable disk of a template, which its forks have an overlay on."""

    node: str
    path: str
    format: str
    blank: str
    """The empty overlay."""


class Frozen(NamedTuple):
    """Where a machine was booted to be frozen, and where what was frozen is to be found."""

    booted: MachinePaths
    made: TemplatePaths
    final: TemplatePaths


def layers(plan: Plan, where: Frozen) -> tuple[Layer, ...]:
    """The writable disks of a template's plan, its UEFI variables among them."""
    formats = {option.body["file"]: option for option in _nodes(plan) if "file" in option.body}
    return tuple(
        _layer(option, formats[option.body["node-name"]], where)
        for option in _nodes(plan)
        if str(option.body.get("filename", "")).startswith(f"{where.made.directory}/") and not option.body["read-only"]
    )


def _layer(storage: Option, image: Option, where: Frozen) -> Layer:
    node = str(image.body["node-name"])
    path = str(storage.body["filename"]).replace(where.made.directory, where.final.directory, 1)
    return Layer(node, path, str(image.body["driver"]), where.final.blank(node))


def boots_kernel(plan: Plan) -> bool:
    """Whether a PC's BIOS is handed a Linux kernel by QEMU. Other firmware has ways of its own to come by it."""
    flags = {option.flag for option in plan.options}
    has_flash = any("pflash0" in option.body for option in plan.options if option.flag == "machine")
    return "kernel" in flags and "bios" not in flags and not has_flash and plan.machine_type.startswith("pc")


def fork_plan(
    plan: Plan,
    *,
    where: Frozen,
    features: frozenset[Feature],
    cards: tuple[Card, ...] = (),
    is_reloaded: bool = False,
) -> Plan:
    """The plan that the forks of a template have in common, from the one the template was booted by; see `place`.

    `cards` were left out of the template, and each fork has them. With `is_reloaded` the template has files that stand
    for the kernel: see `kvmctl.guest.reload`.
    """
    own = layers(plan, where)
    plan = moved(plan, {where.booted.run: PLACE.run, where.made.directory: where.final.directory})
    uri, source = _incoming(where.final, features)
    if is_reloaded:
        plan = plan._replace(options=tuple(_reloaded(plan, where.final)))
    plan = plan._replace(
        options=(*_options(plan, own, features), text("incoming", "defer", why=_WHY)),
        fds=(*map(_source, plan.fds), SharedLock("template", where.final.lock, "template"), *source),
        steps=(*_steps(plan), *(CopyImage(layer.blank, _overlay(layer), "template") for layer in own)),
        inputs=tuple(_inputs(plan, own)),
        disks=tuple(
            disk._replace(path=_overlay(layer), format="qcow2") if (layer := _find(own, disk.node)) else disk
            for disk in plan.disks
        ),
        before_run=(
            *plan.before_run,
            QmpStep("migrate-set-capabilities", {"capabilities": [IGNORE_SHARED, EVENTS]}, why=_WHY),
            QmpStep("migrate-incoming", {"uri": uri}, why=_WHY),
        ),
        template=where.final.name,
        warnings=(),
    )
    return card.plug(plan, cards)


def _incoming(template: TemplatePaths, features: frozenset[Feature]) -> tuple[str | Fd, tuple[OpenFile, ...]]:
    """Where the devices' state is read from. QEMU opens it where it can; the rest is handed a descriptor."""
    if Feature.MIGRATE_FILE in features:
        return f"file:{template.device_state}", ()
    return Fd(DEVICE_STATE, "fd:"), (OpenFile(DEVICE_STATE, template.device_state, "read", "template"),)


def _options(plan: Plan, own: tuple[Layer, ...], features: frozenset[Feature]) -> Iterator[Option]:
    for option in plan.options:
        match option.flag:
            case "object" if option.body.get("id") == "ram":
                # Taking all of it before the machine runs would copy every page.
                private: dict[str, Value] = {"share": False, "prealloc": False}
                sealed: dict[str, Value] = {}
                if Feature.READONLY_MEMORY in features:
                    sealed = {"readonly": True, "rom": "off"}
                yield option._replace(body={**option.body, **private, **sealed})
            case "blockdev":
                yield from _block_node(option, own)
            case "chardev" if option.body.get("id") == RESIDENT:
                # Open from the first on, as it was when the guest was frozen: it is not told of any change.
                yield option._replace(body={key: option.body[key] for key in ("id", "fd")})
            case _:
                yield option


def _source(source: FdSource) -> FdSource:
    """Nobody but who makes a fork has anything to say to the program that waits in its guest."""
    return Pair(RESIDENT) if isinstance(source, Listen) and source.fd == RESIDENT else source


def _reloaded(plan: Plan, template: TemplatePaths) -> Iterator[Option]:
    """The options with the kernel in the template's own file, and all of it that is long in what QEMU maps."""
    for option in plan.options:
        match option.flag:
            case "kernel":
                yield option._replace(text=template.kernel)
                yield text("initrd", template.initrd, why=option.why)
            case "initrd":
                continue
            case _:
                yield option


def _block_node(option: Option, own: tuple[Layer, ...]) -> Iterator[Option]:
    """A node as it is; of a layer, its storage is the overlay and its image has the frozen one below it."""
    node = str(option.body["node-name"])
    if layer := _find(own, node):
        below: dict[str, Value] = {"node-name": f"{node}-frozen", "file": f"{node}-frozen-file", "read-only": True}
        storage: dict[str, Value] = {
            "driver": "file",
            "node-name": f"{node}-frozen-file",
            "filename": layer.path,
            "read-only": True,
        }
        yield jsonopt("blockdev", storage, why=option.why)
        yield jsonopt("blockdev", {"driver": layer.format, **below}, why=option.why)
        yield option._replace(body={**option.body, "driver": "qcow2", "backing": f"{node}-frozen"})
    elif layer := next((item for item in own if item.path == option.body.get("filename")), None):
        yield option._replace(body={**option.body, "filename": _overlay(layer)})
    else:
        yield option


def _steps(plan: Plan) -> Iterator[Step]:
    """Secrets and channels are made for every run; all else was made with the template."""
    yield from (step for step in plan.steps if isinstance(step, StoreSecret | CopySecret | MakeFifos))


def _inputs(plan: Plan, own: tuple[Layer, ...]) -> Iterator[Input | InputDirectory]:
    """What a fork reads of the host, as its template did; its disks' layers are the template's own affair."""
    mine = {layer.path for layer in own}
    yield from (item for item in plan.inputs if item.path not in mine)


def _overlay(layer: Layer) -> str:
    return join(DISKS, f"{layer.node}.qcow2")


def _find(own: tuple[Layer, ...], node: object) -> Layer | None:
    return next((layer for layer in own if layer.node == node), None)


def _nodes(plan: Plan) -> Iterator[Option]:
    return (option for option in plan.options if option.flag == "blockdev")
