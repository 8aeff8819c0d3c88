"""``kvmctl image build``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

import kvmctl
from kvmctl import BuildProgress, KvmctlError, parse_size
from kvmctl.cli import output


class Distribution(StrEnum):
    """What images can be built of."""

    DEBIAN = "debian"


def build(
    distribution: Annotated[Distribution, typer.Argument(help="What to build it of.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the image.")],
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="SUITE", help="Such as trixie; else this host's own, or bookworm.")
    ] = None,
    packages: Annotated[
        list[str] | None, typer.Option("--package", "-p", metavar="PACKAGE", help="Have this too. May be repeated.")
    ] = None,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="How large its disk is.")] = "4GiB",
    cloud_init: Annotated[bool, typer.Option(help="With cloud-init, for first boots with a seed.")] = True,
    mirror: Annotated[
        str | None, typer.Option("--mirror", metavar="URL", help="Where from, where apt of this host does not know.")
    ] = None,
) -> None:
    """Build an image from a distribution's packages.

    It takes no root, no internet beyond the mirror that apt uses here, and about a minute. The disk boots by BIOS and
    by UEFI, with Secure Boot too; its console is the serial one, its network is set up by DHCP, its root grows with
    the disk, and the guest agent and ssh are there. Nobody can log in until keys are given, by a seed or by systemd's
    credentials.

    \b
    kvmctl image build debian debian
    kvmctl image build debian small --no-cloud-init --package python3-minimal --package curl
    kvmctl create web --image debian --start
    """
    image = kvmctl.build_debian_image(
        name,
        suite=suite,
        mirror=mirror,
        packages=packages or (),
        cloud_init=cloud_init,
        size=_bytes(size),
        on_progress=_tell,
    )
    stored = output.size(image.stored)
    output.say(f"{image.name}: {distribution} built ({stored}, a disk of {output.size(image.size)})")
    output.emit(image.name)


def _tell(progress: BuildProgress) -> None:
    output.say(f"{progress.number} of {progress.total}: {progress.step}")


def _bytes(text: str) -> int:
    try:
        return parse_size(text)
    except KvmctlError as error:
        raise typer.BadParameter(f"{error.summary}; {error.hint}", param_hint="--size") from error
