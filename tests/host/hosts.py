"""The recorded hosts, by name."""

from __future__ import annotations

from pathlib import Path

from kvmctl.host.record import Survey

DIRECTORY = Path(__file__).parent.parent / "data/hosts"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def recorded(name: str) -> Survey:
    """The survey of a recorded host."""
    return Survey.loads((DIRECTORY / f"{name}.json").read_text())
