"""What must hold of the finished options, whatever made them: ids, descriptors, addresses and sockets are unique."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from posixpath import normpath
from typing import Final

from kvmctl.errors import Problem
from kvmctl.plan.layers import SharedLock
from kvmctl.plan.model import FdSource, Input, Listen, OpenFile, Pair, Tap, VhostNet
from kvmctl.plan.option import Option, descriptor_names
from kvmctl.plan.share import InputDirectory
from kvmctl.spec.context import Context, Lowered, Part

_ID_KEYS: Final[Mapping[str, str]] = {
    "device": "id",
    "object": "id",
    "chardev": "id",
    "netdev": "id",
    "blockdev": "node-name",
}
"""The key that names the thing an option makes; each flag has names of its own."""


def clashes(options: Sequence[Option], lowered: Lowered) -> Iterator[Problem]:
    """Everything that exists twice, or that the launcher would look for in vain."""
    yield from _twins(_ids(options), "is the id of two things")
    yield from _twins(_addresses(options), "is the address of two devices")
    yield from _twins(_addresses_of_cards(options), "is the address of two cards")
    yield from _twins(((item.path, item.fd) for item in lowered.fds if isinstance(item, Listen)), "is two sockets")
    yield from _descriptors(options, lowered)


def taken_twice(lowered: Lowered) -> Iterator[Problem]:
    """What of the host two devices want, each for itself."""
    yield from _twins(((f"{item.host}:{item.port}", item.key) for item in lowered.ports), "is listened on twice")
    yield from _images(lowered.inputs)


def absent(parts: Iterable[Part], ctx: Context) -> Iterator[Problem]:
    """Devices that this QEMU can't make."""
    for part in parts:
        if part.driver not in ctx.qemu.devices:
            program = f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path})"
            yield Problem(
                part.key, f"{program} has no device '{part.driver}': built without it, or a module is missing"
            )


def _twins(named: Iterable[tuple[str, str]], message: str) -> Iterator[Problem]:
    places: dict[str, list[str]] = defaultdict(list)
    for name, place in named:
        places[name].append(place)
    for name, found in places.items():
        if len(found) > 1:
            yield Problem(found[-1], f"'{name}' {message}", allowed=f"the other is {found[0]}")


def _images(inputs: Iterable[Input | InputDirectory]) -> Iterator[Problem]:
    """QEMU locks what it writes against everybody, itself included."""
    places: dict[str, list[Input]] = defaultdict(list)
    for item in inputs:
        if isinstance(item, Input) and item.locked:
            places[normpath(item.path)].append(item)
    for found in places.values():
        if len(found) > 1 and any(item.writable for item in found):
            message = f"'{found[-1].path}' is the image of two disks, and one of them writes it"
            yield Problem(found[-1].key, message, allowed=f"the other is {found[0].key}")


def _ids(options: Iterable[Option]) -> Iterator[tuple[str, str]]:
    for flag, key in _ID_KEYS.items():
        for option in options:
            if option.flag == flag and key in option.body:
                yield f"{flag} {option.body[key]}", option.why


def _addresses(options: Iterable[Option]) -> Iterator[tuple[str, str]]:
    for option in options:
        if option.flag == "device" and "addr" in option.body:
            yield f"{option.body['bus']} {option.body['addr']}", option.why


def _addresses_of_cards(options: Iterable[Option]) -> Iterator[tuple[str, str]]:
    yield from ((str(option.body["mac"]), option.why) for option in options if "mac" in option.body)


def _descriptors(options: Iterable[Option], lowered: Lowered) -> Iterator[Problem]:
    used = sorted(name for option in options for name in descriptor_names((option.lead, option.body)))
    sources = (name for source in lowered.fds for name in _names(source))
    made = sorted((*sources, *(helper.fd for helper in lowered.helpers)))
    if used != made:
        yield Problem("", f"descriptors {used} are used and {made} are made")


def _names(source: FdSource) -> tuple[str, ...]:
    match source:
        case Listen(fd) | Pair(fd) | OpenFile(fd) | SharedLock(fd):
            return (fd,)
        case Tap(fds) | VhostNet(fds):
            return fds
