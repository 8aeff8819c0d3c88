"""The machine that an image's name stands for: what ``kvmctl run debian-12`` runs unless that is a defined machine.

It is a spec like any other, only that no file holds it: what a spec's path is for others is ``image:NAME`` for it.
"""

from __future__ import annotations

from typing import Final

from kvmctl.plan.paths import check_name

PREFIX: Final = "image:"
IMAGE_DISK_SIZE: Final = "10GiB"
"""What a machine of an image gets for a disk, unless the image is larger: it takes no more than is written."""

_SPEC: Final = """\
# The machine that the image {name!r} stands for.
name = "{name}"
memory = "1GiB"
cpus = 2

[[disks]]
image = "{name}"
size = "{size}"

[[networks]]
type = "user"

[guest]
autologin = true
"""


def spec_of_image(name: str) -> str:
    """What stands for the path of the spec of the image's machine. Raises NotFound for what can't be a name."""
    return f"{PREFIX}{check_name(name, of='image')}"


def find_image(spec: str) -> str | None:
    """The image whose machine `spec` stands for; None where it is the path of a file."""
    return spec.removeprefix(PREFIX) if spec.startswith(PREFIX) and "/" not in spec else None


def image_spec_text(name: str) -> str:
    """The spec of the image's machine, in TOML."""
    return _SPEC.format(name=name, size=IMAGE_DISK_SIZE)
