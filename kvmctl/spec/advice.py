"""What is said about a machine that runs, but not as well as one might think."""

from __future__ import annotations

from collections.abc import Iterator

from kvmctl.plan.facts import Verdict
from kvmctl.plan.features import Feature
from kvmctl.plan.paths import BUILTIN_TINY
from kvmctl.spec.boot import Boot
from kvmctl.spec.context import Context
from kvmctl.spec.machine import Machine
from kvmctl.spec.units import MIB, size_text


def warnings(machine: Machine, ctx: Context, *, verdict: Verdict) -> Iterator[str]:
    """What the user of `machine` is told beside its plan."""
    if machine.accel == "auto" and verdict.accel == "tcg":
        yield f"runs under TCG, without KVM: {verdict.reason}"
    kind = next(item for item in ctx.qemu.machines if item.name == ctx.machine_type)
    if kind.deprecated:
        yield f"machine type {kind.name} is deprecated and will be gone from a later QEMU"
    if machine.sandbox and Feature.SANDBOX not in ctx.qemu.features:
        yield f"QEMU {ctx.qemu.version_text} ({ctx.qemu.path}) was built without seccomp: it runs unconfined"
    if ctx.host.memory and machine.memory.size > ctx.host.memory:
        has, wants = size_text(ctx.host.memory // MIB * MIB), size_text(machine.memory.size)
        yield f"the guest may use {wants} of memory and the host has {has}"
    if _may_hang(machine.boot, ctx):
        yield (
            "Linux on a microvm under TCG sometimes hangs while it measures its clock: "
            "add tsc_early_khz=KHZ to boot.cmdline, or use machine = 'q35'"
        )


def _may_hang(boot: Boot, ctx: Context) -> bool:
    """A microvm has neither HPET nor PM timer, and under TCG the timer that is left is too coarse for some boots."""
    is_linux = boot.kernel not in {None, BUILTIN_TINY}
    is_told = "tsc_early_khz" in (boot.cmdline or "")
    return ctx.platform == "microvm" and ctx.accel == "tcg" and is_linux and not is_told
