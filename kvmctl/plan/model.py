"""The plan: everything that starting a machine needs to know, decided. What is left is to do it.

A plan is written to the run directory before anything starts and is all that later commands know of a machine: no
command but ``start`` and those about specs ever looks at the spec again. It survives a JSON round trip unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from kvmctl.plan import guest as telling
from kvmctl.plan import option
from kvmctl.plan.helper import Helper, Tree
from kvmctl.plan.layers import AddLayer, CopyImage, SharedLock
from kvmctl.plan.option import Fd, Fds, Option
from kvmctl.plan.share import InputDirectory, SharedDirectory

FORMAT: Final = 1
"""Raised when an older kvmctl could not read a plan any more."""

TRANSFER_PORT: Final = "org.kvmctl.transfer.0"
"""The name that the guest knows the port by through which files are copied."""
RESIDENT_PORT: Final = "org.kvmctl.resident.0"
"""The name that the guest knows the port by at which a program waits that it has started itself; see
`kvmctl.guest.resident`."""
FROZEN_PORT: Final = "org.kvmctl.frozen.0"
"""The name of that port where the program is put into the guest, to be frozen with it."""


class Listen(NamedTuple):
    """A Unix socket that the launcher binds and listens on and QEMU inherits, so that connecting never has to be tried
    twice."""

    fd: str
    path: str


PRIVATE: Final = "private"
"""The pair of the private monitor, by its name in a plan."""


class Pair(NamedTuple):
    """A socket pair: QEMU inherits one end, the launcher keeps the other. Every plan has the private monitor's."""

    fd: str


class OpenFile(NamedTuple):
    """A file the launcher opens for QEMU; created 0600 for ``append``."""

    fd: str
    path: str
    mode: Literal["read", "write", "append"]
    key: str


class Tap(NamedTuple):
    """A tap device: one descriptor a queue. Non-persistent unless it exists, so the kernel removes it with QEMU."""

    fds: tuple[str, ...]
    key: str
    device: str | None = None
    """The interface's name; None lets the kernel number one."""
    bridge: str | None = None
    """The bridge to put it on; None leaves it alone."""


class VhostNet(NamedTuple):
    """``/dev/vhost-net``, opened once a queue."""

    fds: tuple[str, ...]
    key: str


FdSource: TypeAlias = Listen | Pair | OpenFile | Tap | VhostNet | SharedLock


class CreateImage(NamedTuple):
    """A disk image to be made if it is not there: `size` in bytes."""

    path: str
    format: Literal["raw", "qcow2"]
    size: int
    key: str


class CreateOverlay(NamedTuple):
    """A qcow2 overlay of the image `image` in the store `store`, to be made if it is not there.

    Which image bears the name is settled when the overlay is made, and from then on the overlay itself says what it
    lies over. `size` in bytes; the overlay is as large as the image where that is larger, or where it is None.
    """

    path: str
    store: str
    image: str
    size: int | None
    key: str


class CopyNvram(NamedTuple):
    """UEFI variables to be copied from the firmware's template, as qcow2, if they are not there."""

    template: str
    template_format: str
    path: str
    key: str


class StoreSecret(NamedTuple):
    """A secret in the environment variable `variable`, to be written to `path` (0600) for QEMU to read."""

    variable: str
    path: str
    key: str


class MakeFifos(NamedTuple):
    """A pair of FIFOs, ``PATH.in`` for QEMU to read and ``PATH.out`` for it to write: always open, whoever comes."""

    path: str


class CopySecret(NamedTuple):
    """A secret in the file `source`, to be written to `path` (0600) without the line break at its end."""

    source: str
    path: str
    key: str


Step: TypeAlias = (
    CreateImage | CreateOverlay | CopyNvram | StoreSecret | CopySecret | MakeFifos | AddLayer | CopyImage | telling.Step
)


class Input(NamedTuple):
    """A file that must be there before QEMU starts: looked at so that the error can name the spec's key."""

    path: str
    key: str
    writable: bool = False
    locked: bool = False
    """QEMU takes image locks on it, so another process writing it is an error worth explaining beforehand."""


class Port(NamedTuple):
    """A TCP address QEMU will listen on: tried beforehand so that the error can name the holder."""

    host: str
    port: int
    key: str


class QmpStep(NamedTuple):
    """A monitor command to be run as the machine starts; for `Fd` and `Fds` in its arguments stand numbers."""

    execute: str
    arguments: Mapping[str, Any] = {}  # a mapping that nobody writes
    why: str = ""

    def numbered(self, numbers: Mapping[str, int]) -> dict[str, Any]:
        """Its arguments, with the `numbers` of the descriptors that QEMU has from us."""
        return {key: option.resolve(value, numbers) for key, value in self.arguments.items()}


class Console(NamedTuple):
    """A serial or virtio console one can attach to."""

    id: str
    socket: str
    log: str


class Disk(NamedTuple):
    """What later commands want to know of a disk."""

    id: str
    node: str | None
    """The block node's name; None for an empty drive."""
    path: str | None
    format: str | None
    device: str
    read_only: bool


class Network(NamedTuple):
    """What later commands want to know of a network interface; `forwards` are ``host:port->port`` as given."""

    id: str
    type: str
    mac: str | None
    forwards: tuple[str, ...] = ()


class Guest(NamedTuple):
    """What the launcher may expect of the guest: which ways of asking it anything exist."""

    acpi: bool
    agent: Literal["virtio", "serial"] | None
    """How the agent's channel is attached: a virtio port announces that it was opened, a serial port does not."""
    transfer: bool = False
    """Whether there is a port beside it for copying files."""
    resident: bool = False
    """Whether there is one for the program that waits in the guest."""
    balloon: bool = False
    vnc: bool = False
    display: bool = False
    user: str | None = None
    """The user to log in as over ssh; None where the spec says nothing of the guest's users."""


class Plan(NamedTuple):
    """A machine, decided. `options` leave descriptors unnumbered; `plan.option.render` writes them."""

    name: str
    uuid: str
    description: str
    source: str
    """The file the spec came from."""
    qemu: str
    """Path of the binary."""
    qemu_version: str
    accel: Literal["kvm", "tcg"]
    accel_reason: str
    machine_type: str
    """Pinned: ``pc-q35-7.2``, never an alias."""
    cpus: int
    memory: int
    """Bytes at boot."""
    options: tuple[Option, ...]
    fds: tuple[FdSource, ...]
    helpers: tuple[Helper, ...] = ()
    """Started before QEMU, and gone with it."""
    wrapper: tuple[str, ...] = ()
    """The command that QEMU is started through, which becomes QEMU; ties a captive machine to its launcher."""
    steps: tuple[Step, ...] = ()
    inputs: tuple[Input | InputDirectory, ...] = ()
    ports: tuple[Port, ...] = ()
    before_run: tuple[QmpStep, ...] = ()
    after_renewal: tuple[QmpStep, ...] = ()
    """Run when a fork's guest has its own random numbers, before anybody gets to see the fork: what it is given."""
    consoles: tuple[Console, ...] = ()
    disks: tuple[Disk, ...] = ()
    networks: tuple[Network, ...] = ()
    shares: tuple[SharedDirectory, ...] = ()
    guest: Guest = Guest(acpi=True, agent=None)
    template: str | None = None
    """The template that the machine is a fork of."""
    warnings: tuple[str, ...] = ()
    """Said once when the machine starts."""
    spec: Mapping[str, Any] = {}
    """The spec with its defaults, as JSON values."""
    format: int = FORMAT

    def dumps(self) -> str:
        """The plan as JSON text; `loads` reads it back."""
        return json.dumps(_encode(self))  # not for people: indented it would take three times as long

    @classmethod
    def loads(cls, text: str) -> Plan:
        """The plan that `dumps` wrote. Raises ValueError for anything else."""
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            message = f"not a plan of format {FORMAT}"
            raise ValueError(message)
        try:
            plan = _decode(record)
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from error
        if not isinstance(plan, cls):
            message = "not a plan"
            raise ValueError(message)  # noqa: TRY004
        return plan


_CLASSES: Final[dict[str, Any]] = {
    cls.__name__: cls
    for cls in (
        Plan, Listen, Pair, OpenFile, Tap, VhostNet, CreateImage, CreateOverlay, CopyNvram,
        StoreSecret, CopySecret, MakeFifos, Input, InputDirectory, Port, QmpStep, Console, Disk, Network, Guest,
        SharedDirectory, Helper, Tree, Fd, Fds, SharedLock, AddLayer, CopyImage, *telling.CLASSES,
    )
}  # fmt: skip


def _encode(value: Any) -> Any:
    if isinstance(value, Option):
        return {"": "Option", **option.to_json(value)}
    if type(value).__name__ in _CLASSES:
        record = {"": type(value).__name__}
        record |= {name: _encode(getattr(value, name)) for name in value._fields}
        return record
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {key: _encode(item) if isinstance(item, Fd | Fds) else item for key, item in value.items()}
    return value


def plain(value: Any) -> Any:
    """What a part of a plan says, for people and their programs: JSON values without a word of how kvmctl has them."""
    if type(value).__name__ in _CLASSES:
        return {name: plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if isinstance(value, dict) and "" in value:
        name = value[""]
        if name == "Option":
            return option.from_json(value)
        make = _CLASSES[name]
        # Mappings of foreign JSON (QMP arguments, the spec) are no values of ours: kept as they are.
        return make(**{key: _decode_item(item) for key, item in value.items() if key})
    return value


def _decode_item(item: Any) -> Any:
    if isinstance(item, dict) and "" not in item:
        return {key: _decode(value) if _is_fd(value) else value for key, value in item.items()}
    return _decode(item)


def _is_fd(value: Any) -> bool:
    return isinstance(value, dict) and value.get("") in {Fd.__name__, Fds.__name__}
