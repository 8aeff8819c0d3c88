"""kvmctl: machine specs in, running QEMU/KVM virtual machines out, and no daemon.

::

    from kvmctl import launch, load

    async with launch(load("machines/tiny.toml")) as vm:
        print(await vm.status())

Names are bound when first used (PEP 562), so that importing kvmctl costs nothing and a command pays only for what it
needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmctl.errors import KvmctlError as KvmctlError

__version__ = "0.1.0"

_HOME = {
    "KvmctlError": "kvmctl.errors",
}

__all__ = sorted(_HOME)  # noqa: PLE0605  # computed so that the table is the one list


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        message = f"module 'kvmctl' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
