"""Directories of a user who has no images, and a publisher who has."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from kvmctl import Roots

from .publisher import Publisher, publishing

SIZE = 3 << 20
CONTENT = random.Random(7).randbytes(SIZE)
"""A raw image: what is in it is nobody's business."""
OTHER = random.Random(8).randbytes(SIZE)


def digest_of(content: bytes) -> str:
    return sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(*(str(tmp_path / part) for part in ("config", "state", "run", "cache")))


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as ours:
        yield ours


@pytest.fixture
def acme(publisher: Publisher, roots: Roots) -> Publisher:
    """A publisher whose raw image ``acme-1`` is in the user's catalogue."""
    publisher.put("/acme-1.raw", CONTENT, etag='"one"')
    publisher.put("/SHA256SUMS", f"{digest_of(CONTENT)}  acme-1.raw\n".encode())
    catalogue(roots, acme=f'url = "{publisher.url}/acme-{{release}}.raw"\nchecksums = "SHA256SUMS"\nformat = "raw"')
    return publisher


def catalogue(roots: Roots, **families: str) -> None:
    """Write the user's catalogue: families of one release, 1."""
    os.makedirs(roots.config, exist_ok=True)
    text = "".join(f"[{name}]\n{body}\n[{name}.releases]\n1 = {{}}\n" for name, body in families.items())
    Path(roots.catalogue).write_text(text)


def files_under(path: str) -> list[str]:
    """Every file there is, locks apart."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path)
        for name in names
        if name != "lock"
    )
