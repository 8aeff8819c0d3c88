"""``kvmctl create``."""

from __future__ import annotations

import os
import re
from typing import Annotated, Final

import typer

import kvmctl
from kvmctl import IMAGE_DISK_SIZE
from kvmctl.cli import output
from kvmctl.cli.arguments import complete_image
from kvmctl.cli.starting import start_detached

_SIZE: Final = re.compile(r"[\d.]+\s*[A-Za-z]*")


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new machine's name.")],
    memory: Annotated[str, typer.Option("--memory", "-m", metavar="SIZE", help="Such as 2GiB.")] = "1GiB",
    cpus: Annotated[int, typer.Option("--cpus", "-c", min=1, metavar="N")] = 1,
    disk: Annotated[
        list[str] | None,
        typer.Option("--disk", metavar="PATH|SIZE", help="An image, or the size of a new one. May be repeated."),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", metavar="IMAGE", help="The first disk begins as this image.", autocompletion=complete_image
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="SIZE", help="How large the image's disk is; 10GiB unless given.")
    ] = None,
    cdrom: Annotated[
        str | None, typer.Option("--cdrom", metavar="ISO", help="A CD, booted where no disk can be yet.")
    ] = None,
    forward: Annotated[
        list[str] | None,
        typer.Option("--forward", metavar="RULE", help="A port of the host: 2222->22. May be repeated."),
    ] = None,
    bridge: Annotated[
        str | None, typer.Option("--bridge", metavar="BRIDGE", help="On this bridge, not on a network of its own.")
    ] = None,
    uefi: Annotated[bool, typer.Option("--uefi", help="UEFI instead of BIOS.")] = False,
    vnc: Annotated[bool, typer.Option("--vnc", help="A display, by VNC on a Unix socket.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Start it, too.")] = False,
) -> None:
    """Write and define a spec from a few options.

    The spec is all there is to it: kvmctl edit NAME shows it, and takes everything there is no option for here.
    The guest of an image is told who you are, so that kvmctl ssh NAME gets in.

    \b
    kvmctl create web --image debian-12 --size 20GiB --forward 2222->22 --start
    kvmctl create web --memory 2GiB --cpus 2 --disk web.qcow2 --forward 8080->80 --start
    kvmctl create new --disk 20GiB --cdrom debian.iso --vnc
    """
    if bridge and forward:
        raise typer.BadParameter("--forward is for the network of its own; on a bridge the guest has its own address")
    fields: dict[str, object] = {"memory": memory, "cpus": cpus}
    if uefi:
        fields["firmware"] = "uefi"
    if size and not image:
        raise typer.BadParameter("--size is for the disk of an --image; a new disk is --disk SIZE")
    first = [{"image": image, "size": size or IMAGE_DISK_SIZE}] if image else []
    fields["disks"] = [*first, *(_disk(text) for text in disk or ()), *([_cdrom(cdrom)] if cdrom else [])]
    fields["networks"] = [_network(bridge, forward or [])]
    if vnc:
        fields["vnc"] = True
    if image:
        fields["guest"] = True  # or nobody could log in to it
    definition = kvmctl.create(name, fields)
    output.say(f"{definition.name}: defined: {definition.path}")
    if start:
        start_detached(definition.name, name=None)
    else:
        output.emit(definition.name)


def _disk(text: str) -> dict[str, object]:
    """A disk by its path, or a new one by its size; a path that looks like a size is given with a ``./``."""
    return {"size": text} if _SIZE.fullmatch(text) else {"path": os.path.abspath(text)}


def _cdrom(path: str) -> dict[str, object]:
    return {"device": "cdrom", "path": os.path.abspath(path)}


def _network(bridge: str | None, forward: list[str]) -> dict[str, object]:
    return {"type": "tap", "bridge": bridge} if bridge else {"type": "user", "forward": forward}
