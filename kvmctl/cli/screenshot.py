"""``kvmctl screenshot``."""

from __future__ import annotations

from typing import Annotated

import typer

from kvmctl.cli.arguments import Name
from kvmctl.cli.session import on_machine


def screenshot(name: Name, file: Annotated[str, typer.Argument(metavar="FILE", help="Where to, as PNG.")]) -> None:
    """Save a picture of a machine's display.

    The machine needs a display adapter in its spec; a display server is not needed.

    \b
    kvmctl screenshot web web.png
    """
    on_machine(name, lambda vm: vm.screenshot(file))
