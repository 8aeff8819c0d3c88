"""A frozen machine on disk: how its state gets there.

QEMU writes what it knows of the devices; the memory and the disks are files already. See QEMU's
docs/system/vm-templating.rst.
"""

from __future__ import annotations

import os
from typing import Final

from kvmctl import files
from kvmctl.errors import KvmctlError, NotRunning, QmpError
from kvmctl.plan.features import Feature
from kvmctl.plan.fork import EVENTS, IGNORE_SHARED
from kvmctl.runtime.monitor import Monitor
from kvmctl.runtime.vm import Vm

FREEZE_SECONDS: Final = 120.0
"""Seconds that QEMU has to write the devices' state: little, but graphics memory is part of it."""
_ENDS: Final = frozenset({"completed", "failed", "cancelled"})
_STATE: Final = "device-state"


async def freeze(vm: Vm, path: str, *, features: frozenset[Feature]) -> None:
    """Stop `vm`, whose memory is a shared file, and write the state of its devices to `path`.

    It stays stopped for good: its disks are flushed and closed. Raises KvmctlError with QEMU's reason where there is
    something that it can't freeze.
    """
    async with vm.monitor(deadline=FREEZE_SECONDS) as monitor:
        await monitor.execute("stop")
        await monitor.execute("migrate-set-capabilities", {"capabilities": [IGNORE_SHARED, EVENTS]})
        try:
            await monitor.execute("migrate", {"uri": await _destination(monitor, path, features)})
        except QmpError as error:
            raise _refused(vm, error.summary) from error
        if await _migrated(vm) != "completed":
            reason = (await monitor.execute("query-migrate")).get("error-desc", "QEMU gives no reason")
            raise _refused(vm, str(reason))


async def _destination(monitor: Monitor, path: str, features: frozenset[Feature]) -> str:
    """Where the state goes, in QEMU's words; where it can't open files for that it is handed one."""
    if Feature.MIGRATE_FILE in features:
        return f"file:{path}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        await monitor.pass_fd(_STATE, descriptor)
    finally:
        os.close(descriptor)
    return f"fd:{_STATE}"


async def _migrated(vm: Vm) -> str:
    """How the migration ended. Raises NotRunning where QEMU did."""
    async for event in vm.events():
        if event.name == "MIGRATION" and event.data.get("status") in _ENDS:
            return str(event.data["status"])
    raise NotRunning(
        f"machine {vm.name!r} ended while it was frozen", detail=files.read_tail(vm.paths.qemu_log, limit=4096)
    )


def _refused(vm: Vm, reason: str) -> KvmctlError:
    return KvmctlError(
        f"QEMU can't freeze {vm.name!r}", detail=reason, hint="Leave that device out of the template's spec."
    )
