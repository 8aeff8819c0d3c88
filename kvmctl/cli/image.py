"""``kvmctl image``: the disk images that machines begin as."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import kvmctl
from kvmctl.cli import output
from kvmctl.cli.arguments import Json, complete_image
from kvmctl.cli.list import moment
from kvmctl.cli.output import Column
from kvmctl.cli.progress import Bar
from kvmctl.cli.pulling import pull_image

if TYPE_CHECKING:
    from kvmctl import CatalogueEntry, ImageInfo


class Format(StrEnum):
    """The formats that an image may have."""

    QCOW2 = "qcow2"
    RAW = "raw"


_FormatOption = Annotated[
    Format | None, typer.Option("--format", help="Its format, where the name does not end in .qcow2 or .raw.")
]
_COLUMNS = (
    Column("NAME"),
    Column("FORMAT"),
    Column("SIZE", right=True),
    Column("DISK", right=True),
    Column("AGE", right=True),
    Column("USED BY"),
)
_AVAILABLE = (Column("NAME"), Column("TITLE"), Column("USER"), Column("HERE"))


def image() -> None:
    """Get and keep the disk images that machines begin as.

    A machine's disk with an image is a linked overlay of it: made in no time, and as large as what the guest writes.
    The images themselves are kept once, by their content, and never change.

    \b
    kvmctl image list --available
    kvmctl image pull debian-12
    kvmctl run debian-12
    """


def pull(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Names or addresses.", autocompletion=complete_image)
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it, of an address; else its file's name.")
    ] = None,
    image_format: _FormatOption = None,
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="sha256:HEX", help="What an address must give; or sha512:HEX.")
    ] = None,
) -> None:
    """Download images by their names in the catalogue, or by their addresses.

    What comes is held against the publisher's checksum and is in the store only if it is right. A pull that was broken
    off is gone on with by the next one; two pulls of the same image share a download. One that is there already is
    pulled again only if its publisher has another by now; machines keep the one they began with. http_proxy,
    https_proxy and no_proxy are honoured.

    \b
    kvmctl image pull debian-12 fedora-44
    kvmctl image pull https://example.org/appliance.qcow2 --digest sha256:0f3c...
    """
    if len(images) > 1 and (name or image_format or digest):
        raise typer.BadParameter("--name, --format and --digest are for a single address")
    if (name or image_format or digest) and "://" not in images[0]:
        raise typer.BadParameter("--name, --format and --digest are for an address: the catalogue knows them")
    for image in images:
        output.emit(pull_image(image, name=name, image_format=_plain(image_format), digest=digest).name)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A qcow2 or raw image.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it; else the file's name.")
    ] = None,
    image_format: _FormatOption = None,
) -> None:
    """Take a copy of an image's file into the store.

    The format is given or told by the name, never found by looking into the file. An image must stand alone: one with a
    backing file is refused.

    \b
    kvmctl image import appliance.qcow2
    kvmctl image import disk.img --format raw --name appliance
    """
    with Bar(name or file) as bar:
        image = kvmctl.import_image(
            file,
            name=name,
            image_format=_plain(image_format),
            on_progress=lambda done: bar.show(done, None),
        )
    output.emit(image.name)


def list_(
    available: Annotated[
        bool, typer.Option("--available", "-a", help="List what the catalogue has, not what is here.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print names only, one a line.")] = False,
    json: Json = False,
) -> None:
    """List the images in the store, or all that can be had.

    SIZE is that of the file, DISK that of the disk a guest sees. Images can be added to the catalogue: the file
    images.toml in kvmctl's configuration directory has the form of kvmctl/image/catalogue.toml.

    \b
    kvmctl image list
    kvmctl image list --available
    kvmctl image list --json | jq -r '.images[] | select(.used_by == []) | .name'
    """
    if available:
        _list_available(quiet=quiet, json=json)
        return
    images = kvmctl.list_images()
    if json:
        output.print_json({"images": [_record(image) for image in images]})
    elif quiet:
        for image in images:
            output.emit(image.name)
    else:
        output.print_table(_COLUMNS, [_row(image) for image in images])


def rm(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names.", autocompletion=complete_image)],
) -> None:
    """Remove images from the store.

    The name goes. What it stood for stays as long as the disks of machines are overlays of it; kvmctl image gc removes
    it once they are gone.

    \b
    kvmctl image rm debian-11
    """
    for name in images:
        removed = kvmctl.remove_image(name)
        if removed.kept_for:
            output.say(f"{name}: the name is gone; the image itself stays for {', '.join(removed.kept_for)}")
        else:
            output.say(f"{name}: removed")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove what of images nothing needs any more.

    That is images without a name (because it was removed, or a newer one was pulled) that no machine's disk is an
    overlay of, and what was left by downloads that were broken off.

    \b
    kvmctl image gc --dry-run
    """
    found = kvmctl.collect_images(dry_run=dry_run)
    if json:
        output.print_json({"dry_run": dry_run, "removed": found})
        return
    for item in found:
        output.emit(item.path)
    output.say(f"{output.size(sum(item.size for item in found))} {'can be freed' if dry_run else 'freed'}")


def _plain(image_format: Format | None) -> Literal["qcow2", "raw"] | None:
    match image_format:
        case Format.QCOW2:
            return "qcow2"
        case Format.RAW:
            return "raw"
        case None:
            return None


def _list_available(*, quiet: bool, json: bool) -> None:
    entries = kvmctl.available_images()
    here = {image.name for image in kvmctl.list_images()}
    if json:
        output.print_json({"images": [_available_record(entry, is_here=entry.name in here) for entry in entries]})
    elif quiet:
        for entry in entries:
            output.emit(entry.name)
    else:
        rows = [[entry.name, entry.title, entry.user or "", "yes" if entry.name in here else ""] for entry in entries]
        output.print_table(_AVAILABLE, rows)


def _available_record(entry: CatalogueEntry, *, is_here: bool) -> dict[str, object]:
    return {
        "name": entry.name,
        "title": entry.title,
        "url": entry.url,
        "checksums": entry.checksums,
        "digest": entry.digest and str(entry.digest),
        "format": entry.format,
        "user": entry.user,
        "arch": entry.arch,
        "here": is_here,
    }


def _record(info: ImageInfo) -> dict[str, object]:
    image = info.image
    return {
        "name": info.name,
        "digest": image and f"sha256:{image.digest}",
        "format": image and image.format,
        "stored_bytes": image and image.stored,
        "disk_bytes": image and image.size,
        "added": image and moment(image.added),
        "source": image and image.source,
        "checked_against": image and image.vouched,
        "user": image and image.user,
        "used_by": info.used_by,
        "problem": info.problem or None,
    }


def _row(info: ImageInfo) -> list[str]:
    if info.image is None:
        return [info.name, "", "", "", "", f"broken: {info.problem}"]
    image = info.image
    return [
        info.name,
        image.format,
        output.size(image.stored),
        output.size(image.size),
        output.duration(time.time() - image.added),
        f"broken: {info.problem}" if info.problem else " ".join(info.used_by),
    ]
