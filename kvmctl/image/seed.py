"""The disk that cloud-init reads: an ISO 9660 file system with the label CIDATA, and its files by their full names."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Final

from pycdlib import PyCdlib

LABEL: Final = "CIDATA"
"""What cloud-init looks for. In capitals, which is all that ISO 9660 has."""


def seed_image(files: Mapping[str, bytes]) -> bytes:
    """The image of a disk that holds `files`, by name."""
    iso = PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL, sys_ident="LINUX")
    for index, (name, data) in enumerate(files.items()):
        # The name in the old name space is nobody's: Linux reads Rock Ridge's, others read Joliet's.
        iso.add_fp(BytesIO(data), len(data), f"/FILE{index}.;1", rr_name=name, joliet_path=f"/{name}")
    image = BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()
