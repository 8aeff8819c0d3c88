"""One fork that goes on without us, as quickly as a command can start it: without asyncio, qemu.qmp and psutil.

QEMU takes 40 ms to come up, so it is started before anything is imported that only what comes after that needs: that is
in `kvmctl.runtime.quickraise`.
"""

from __future__ import annotations

from importlib import import_module

from kvmctl.plan.paths import Roots
from kvmctl.runtime import store
from kvmctl.runtime.forking import begin_fork, check_free, check_room, held
from kvmctl.runtime.template_record import Record, check, load_record


def fork_quickly(template: str, *, name: str, roots: Roots | None = None) -> bool:
    """Start machine `name`, a fork of `template`, as `Template.fork_detached` does.

    False where there is more to it, and nothing was started: it has to be renewed by its agent, or has cards to be
    plugged in. Raises NotFound, TemplateMisfit, TemplateDamaged, AlreadyRunning, and what starting a machine raises.
    """
    roots = roots or store.find_roots()
    where = roots.template(template)
    with held(where):
        record = load_record(where)
        check(where, record)
        if not _is_plain(record):
            return False
        store.sweep(roots)
        check_room(record.plan, roots, count=1)
        check_free(name, roots)
        beginning = begin_fork(record, roots.machine(name, ephemeral=True), is_captive=False)
    with beginning.undone_on_error():
        raising = import_module("kvmctl.runtime.quickraise")
    raising.raise_quickly(beginning, is_resident=record.is_resident)
    return True


def _is_plain(record: Record) -> bool:
    return record.is_resident == (record.renew is not None) and not record.plan.after_renewal
