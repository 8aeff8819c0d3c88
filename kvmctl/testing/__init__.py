"""For those who test with machines: the pytest plugin, guests in the words of test drivers, and the fakes we ship.

The names here are bound when first used (PEP 562): the plugin is part of every pytest run where kvmctl is installed,
and must cost those that use no machine nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvmctl.testing.blueprint import Blueprint as Blueprint
    from kvmctl.testing.facade import Guest as Guest
    from kvmctl.testing.words import AsyncGuest as AsyncGuest

_HOME: Final = {
    "AsyncGuest": "kvmctl.testing.words",
    "Blueprint": "kvmctl.testing.blueprint",
    "Guest": "kvmctl.testing.facade",
}

# See kvmctl/__init__.py for why type checkers are not shown these.
if not TYPE_CHECKING:
    __all__ = sorted(_HOME)  # noqa: PLE0605  # computed so that the table is the one list

    def __getattr__(name: str) -> object:
        home = _HOME.get(name)
        if home is None:
            message = f"module 'kvmctl.testing' has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(import_module(home), name)
