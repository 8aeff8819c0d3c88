"""Images built from a distribution's packages and taken into the store, in this user's directories."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kvmctl.image.build.debian import DEFAULT_SIZE, OnProgress, build_debian
from kvmctl.image.build.workspace import workspace
from kvmctl.image.record import Image, Origin, check_name
from kvmctl.image.store import Store
from kvmctl.plan.paths import ImagePaths, Roots
from kvmctl.runtime import store as runs


def build_debian_image(
    name: str,
    *,
    suite: str | None = None,
    mirror: str | None = None,
    packages: Sequence[str] = (),
    cloud_init: bool = True,
    size: int = DEFAULT_SIZE,
    on_progress: OnProgress | None = None,
    roots: Roots | None = None,
) -> Image:
    """Build a Debian disk, as `build_debian` does, and keep it in the store under `name`, which from then on is its.

    Raises HostError, AptError, ImageError, StateError; nothing is left then, and what a killed build left the next one
    removes.
    """
    check_name(name)
    roots = roots or runs.find_roots()
    with workspace(roots.builds) as space:
        built = build_debian(
            space.file("disk.qcow2"),
            work=roots.builds,
            suite=suite,
            mirror=mirror,
            packages=packages,
            cloud_init=cloud_init,
            size=size,
            on_progress=on_progress,
        )
        with open(built.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        origin = Origin(  # noqa: S604  # it is the guest's
            f"built of Debian {built.suite}",
            user="debian" if cloud_init else "root",
            has_cloud_init=cloud_init,
            shell="/bin/bash",
        )
        return Store(ImagePaths(roots.images)).adopt(built.path, digest, name=name, image_format="qcow2", origin=origin)
